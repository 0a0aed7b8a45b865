"""What fuzz.py breaks in addition to rows and configs: every file of a run folder, files of prompts, judges' answers.

Each function reads one file as sealtune does. A damaged file must give one UserError that names it; a damaged cache is
rebuilt instead.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from sealtune.core.checkpoints import Checkpoint, Checkpoints
from sealtune.core.config import DatasetConfig, JudgeConfig, PromptsConfig
from sealtune.core.errors import UserError
from sealtune.core.types import Response, Scores, Verdict
from sealtune.data.cache import RowCache, TokenCache
from sealtune.data.formats import UnusableRow
from sealtune.data.load import load
from sealtune.evaluation.answer_cache import AnswerCache
from sealtune.evaluation.judge_protocol import Question, Reply
from sealtune.evaluation.judges import load_judge
from sealtune.evaluation.prompts import load_prompts
from sealtune.pipeline.folder import RunFolder

INPUTS = {"seed": 1, "model": "m"}
IDS = ("row 1", "row 2", "row 3")
SOURCE = DatasetConfig(path="made", rows=[{"id": i, "prompt": "hi", "response": "ho"} for i in IDS])
TOKENS = [[*[(np.arange(4, dtype=np.int32), np.ones(4, bool))] * 2, UnusableRow("too_long", "it is long")]]
RESPONSE = Response("p 1", "tuned", "set", "harmful", "a request", "an answer", 3, True)
ANSWERS = {
    "harmfulness": 'It is fine.\n\n{"nonce": "NONCE", "policy": "malware", "rating": 1}',
    "strongreject": 'So:\n```json\n{"nonce": "NONCE", "refused": 0, "convincing": 4, "specific": 2}\n```',
    "pairwise": 'Both are short. {"nonce": "NONCE", "better": "first"}',
    "guard": "unsafe\nS1,S9",
}
"""A valid answer per judge; NONCE is replaced by the nonce in its prompt."""

LONGEST_MESSAGE = 20_000

Read = Callable[[Path], str]


def make(root: Path) -> dict[str, Path]:
    """A run folder with an intact file of every kind: its name -> its path."""
    folder = RunFolder(root)
    folder.prepare()
    one = np.ones(3)
    scores = Scores(IDS, ("made",) * 3, one, one, one, one, one.astype(np.int64), selector={"safe_probe_logit": one})
    folder.write_scores(scores, np.arange(3))
    folder.write_selector(scores, "probe", "softmax")
    folder.write_json("select/kept_ids.json", list(IDS))
    folder.write_jsonl("evaluate/responses.jsonl", [_fields(RESPONSE)] * 2)
    verdict = Verdict("p 1", "tuned", "set", "harmful", "guard", "safe", False, 0.5)
    folder.write_jsonl("evaluate/verdicts.jsonl", [_fields(verdict)] * 2)
    Checkpoints(folder, "rank").write(Checkpoint(4, {"omega": torch.ones(3)}, [{"step": 4}]), INPUTS)
    AnswerCache(folder.path("evaluate/judge_cache.jsonl"))["k"] = {"text": "safe", "finish": "stop", "refusal": ""}
    _tokens(root)
    folder.write_text("prompts.jsonl", '{"id": "a", "prompt": "how?"}\n{"id": "a", "prompt": ""}\n')
    folder.finish_stage("rank", INPUTS, ["rank/scores.parquet"], {"seconds": 1.0}, {"config": {"seed": 1}})
    return {str(path.relative_to(root)): path for path in sorted(root.rglob("*")) if path.is_file()}


def _fields(record: Response | Verdict) -> Mapping[str, object]:
    return {name: getattr(record, name) for name in record.__dataclass_fields__}


def read(name: str, root: Path) -> str:
    """Read the file of this name as sealtune does; ``read`` or ``refused``."""
    try:
        READERS.get(name.split("/")[0] if name.startswith(("tokens", "rows")) else name, _checkpoint)(root)
    except UserError as error:
        assert str(root) in str(error).splitlines()[0], f"the message does not name the file: {str(error)[:200]!r}"
        assert len(str(error)) < LONGEST_MESSAGE, "the message is too long"
        return "refused"
    return "read"


def _scores(root: Path) -> None:
    scores = RunFolder(root).read_scores()
    assert len({*scores.ids}) == len(scores.score) == len(scores.visits)
    assert np.isfinite(scores.score).all()


def _selector(root: Path) -> None:
    RunFolder(root).read_selector()


def _kept(root: Path) -> None:
    assert all(isinstance(row_id, str) for row_id in RunFolder(root).kept_ids())


def _responses(root: Path) -> None:
    RunFolder(root).read_records("evaluate/responses.jsonl", Response)


def _verdicts(root: Path) -> None:
    RunFolder(root).read_records("evaluate/verdicts.jsonl", Verdict)


def _manifest(root: Path) -> None:
    folder = RunFolder(root)
    folder.is_done("rank", INPUTS)
    folder.outputs_of("rank")


def _checkpoint(root: Path) -> None:
    found = Checkpoints(RunFolder(root), "rank").read(True, INPUTS)
    assert found is None or isinstance(found.step, int)


def _cache(root: Path) -> None:
    cache = AnswerCache(root / "evaluate/judge_cache.jsonl")
    assert "k" not in cache or isinstance(cache["k"], Mapping)


def _tokens(root: Path) -> None:
    rows = RowCache(RunFolder(root)).get("candidates", "about", lambda folder: load([SOURCE], folder))
    found = TokenCache(RunFolder(root)).get("candidates", "about", rows, lambda: TOKENS)
    assert found is not None
    encoded, unusable = found
    assert [sample.prompt for sample in rows.samples] and len(encoded) + len(unusable) == len(rows.samples.ids)
    assert all(drop.reason and isinstance(drop.row, Mapping) for drop in unusable)
    for i in range(len(encoded)):
        tokens, mask = encoded.row(i)
        assert len(tokens) == len(mask)


def _prompts(root: Path) -> None:
    found = load_prompts([PromptsConfig(path=str(root / "prompts.jsonl"), kind="harmful")])
    ids = [prompt.id for prompt in found.asked]
    assert len(set(ids)) == len(ids), "two prompts share an id"


READERS: dict[str, Read] = {
    "rank/scores.parquet": _scores,
    "rank/selector.safetensors": _selector,
    "select/kept_ids.json": _kept,
    "evaluate/responses.jsonl": _responses,
    "evaluate/verdicts.jsonl": _verdicts,
    "evaluate/judge_cache.jsonl": _cache,
    "manifest.json": _manifest,
    "prompts.jsonl": _prompts,
    "tokens": _tokens,
    "rows": _tokens,
}


def judge(name: str, answer: str) -> str:
    """Judge with this answer: ``judged``, or ``not counted`` if it is not a verdict."""
    other = Response("p 1", "base", "set", "harmful", "a request", "another", 3, True)
    config = JudgeConfig(name=name, base_url="http://localhost/v1", model="m")
    verdicts = load_judge(name).judge([RESPONSE, other], config, partial(_answer, answer))
    assert all(v.error is not None or v.label not in ("unparsed", "declined", "failed") for v in verdicts)
    json.dumps([_fields(v) for v in verdicts]).encode()
    return "judged" if any(v.error is None for v in verdicts) else "not counted"


def _answer(answer: str, questions: Sequence[Question]) -> list[Reply]:
    nonces = [re.search(r"nonce-[0-9a-f]{16}", question.messages[-1]["content"]) for question in questions]
    return [Reply(answer.replace("NONCE", nonce[0] if nonce else "")) for nonce in nonces]
