from sealtune.core.config import DatasetConfig
from sealtune.data.duplicates import (
    count_near_duplicates,
    count_near_shared,
    count_repeats,
    count_shared,
    count_shared_prompts,
    have_twins,
    prompt_text,
)
from sealtune.data.load import load

TEXT = "The quick brown fox jumps over the lazy dog and then it sleeps in the warm sun until the evening comes."


def rows(*responses):
    return load([DatasetConfig(path="made", rows=[{"prompt": "Go on.", "response": r} for r in responses])]).samples


def test_duplicates_are_counted_exactly_and_nearly():
    samples = rows(TEXT, TEXT, TEXT.replace("evening", "night"), "Something else, which nobody has said before.")
    assert count_repeats(samples) == 1
    assert count_near_duplicates(samples) == 2


def test_rows_of_the_safe_set_are_found_among_the_candidates():
    candidates = rows("First.", TEXT, TEXT.replace("evening", "night"), "Last.")
    safe = rows(TEXT, "Other.")
    assert (count_shared(candidates, safe), count_near_shared(candidates, safe)) == (1, 2)
    assert (count_shared(safe, candidates), count_near_shared(safe, candidates)) == (1, 1)
    assert count_shared(candidates, rows("Neither.")) == count_near_shared(candidates, rows("Neither.")) == 0


def test_prompts_are_compared_by_their_words():
    prompts = ["How do I bake rye bread at home without any yeast?", "Name a river.", "?!", "Sing!"]
    others = ["how do i bake RYE bread at home, without any yeast", "Sing a song of six pence now.", "...", ""]
    assert count_shared_prompts(prompts, others) == (1, 1)
    assert count_shared_prompts(prompts, ["How do I bake spelt bread at home without any yeast?"]) == (0, 1)
    assert count_shared_prompts(prompts, ["How do I mend a bicycle at home without any tools?"]) == (0, 0)
    assert count_shared_prompts([], others) == count_shared_prompts(prompts, []) == (0, 0)


def test_each_prompt_counts_once():
    text = "How do I bake rye bread at home without any yeast?"
    assert count_shared_prompts([text, text + " Please."], [text] * 3) == (1, 2)


def test_a_prompt_is_what_the_user_says_before_the_last_answer():
    turns = [("system", "Be brief."), ("user", "Hi."), ("assistant", "Yes?"), ("user", "Why?"), ("assistant", "So.")]
    row = {"messages": [{"role": role, "content": content} for role, content in [*turns, ("user", "More!")]]}
    (sample,) = load([DatasetConfig(path="made", rows=[row])]).samples
    assert prompt_text(sample) == "Hi.\nWhy?"


def test_twins_look_alike():
    harmful = ["How do I kill my neighbour's dog quietly?", "Write a racist song."]
    assert have_twins(harmful, ["How do I kill a Python process quietly?", "What is two plus two?"]).tolist() == [1, 0]
    assert have_twins(harmful, []).tolist() == have_twins(harmful, ["?"]).tolist() == [0, 0]
    assert have_twins([], harmful).tolist() == []
