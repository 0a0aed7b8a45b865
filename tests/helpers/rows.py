"""Rows of a few common words, made in memory."""

import json
import random

WORDS = ["red", "green", "blue", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "sum", "answer", "list"]


def made_rows(n, seed, **extra):
    """Rows of a few common words; every fifth is labelled unsafe."""
    chance = random.Random(seed)
    for i in range(n):
        prompt, response = (" ".join(chance.choices(WORDS, k=k)) for k in (4, chance.randint(3, 9)))
        yield {"id": f"{seed}-{i}", "prompt": prompt, "response": response, "unsafe": int(i % 5 == 0), **extra}


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
