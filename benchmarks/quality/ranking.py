"""How well rankers find the unsafe rows of labelled mixtures, and what they cost, in one run.

A mixture is a JSONL file with label columns: ``unsafe`` (1 = the answer is harmful), ``hard_negative`` (1 = a safe
answer to a sensitive prompt, to be kept) and ``quality`` (``low``). No ranker sees them. The data folder contains
``mixtures/*.jsonl`` and ``safe/*.jsonl``; it is $SEALTUNE_DATA or --folder.

    python benchmarks/quality/ranking.py --small --output benchmarks/results/ranking-small.json
    python benchmarks/quality/ranking.py --mixtures general_20 general_20~0.05 --rankers loss seal:algorithm=1,gamma=0.1

A ranker can have settings of its own (``seal:algorithm=1``); settings for all rankers come last (``rank.lora_r=8``).
A mixture can have fewer unsafe rows or extra rows (see ``lib/mixtures.py``). Every seed samples other rows, the same
for all rankers. Runs that the output file already has, of the same rows with the same settings, are not repeated.

Cost counts tokens that pass through the model, a backward pass as two forward passes, as a multiple of one plain
fine-tuning epoch over the candidates. Some names are not rankers of sealtune: ``embedding`` and ``moderation`` are
baselines in ``benchmarks/baselines``; ``ceiling`` is a TF-IDF and logistic regression trained on the labels themselves,
cross-validated; ``unseen`` ranks one half of the rows, scores the other half, and vice versa; ``refined`` is ``probe``,
after which ``seal`` reorders the rows around the threshold.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks.baselines import embedding, moderation
from benchmarks.lib import mixtures, tables
from benchmarks.lib.paths import DATA
from benchmarks.lib.reports import command, write_report
from benchmarks.lib.token_counter import count_tokens

if TYPE_CHECKING:
    from sealtune.core.types import Scores
    from sealtune.ranking.job import Job

SMALL = {"rows": 40, "safe_rows": 28, "max_length": 128, "mixtures": ["general_20"]}


def main() -> None:
    args = parse()
    if not (args.folder / "mixtures").is_dir():
        sys.exit(f"error: {args.folder}/mixtures: no such folder; set --folder or SEALTUNE_DATA to the labelled data")
    runs = earlier_runs(args.output)
    wanted = []
    for mixture in args.mixtures or sorted(p.stem for p in (args.folder / "mixtures").glob("*.jsonl")):
        for seed in args.seeds:
            task = Task(args, mixture, seed)
            for ranker in args.rankers:
                key = task.key(ranker)
                wanted.append(key)
                if any(key.items() <= run.items() for run in runs):
                    continue
                runs.append(key | task.measure(ranker))
                print(tables.progress_line(runs[-1]), file=sys.stderr, flush=True)
                save(runs, args.output)  # after every run, so that an interruption loses only one
    print(tables.markdown(tables.table([run for run in runs if any(key.items() <= run.items() for key in wanted)])))


def earlier_runs(output: Path | None) -> list[dict]:
    """The runs in the output file."""
    return json.loads(output.read_text())["runs"] if output and output.exists() else []


def save(runs: list[dict], output: Path | None) -> None:
    """Write the runs, and their table as Markdown next to them."""
    from sealtune.pipeline.environment import machine, versions

    if not output:
        return
    found = tables.table(runs)
    write_report({"runs": runs, "table": found, "machine": machine(), "versions": versions()}, output)
    commands = "\n".join(f"    {command}" for command in dict.fromkeys(run["command"] for run in runs))
    output.with_suffix(".md").write_text(f"{commands}\n\n{tables.markdown(found)}")


def parse() -> argparse.Namespace:
    """The command line; ``--small`` sets what was not given."""
    from sealtune.core.config import IMPORTED
    from sealtune.ranking import methods

    rankers = [name for name in methods.names() if name != IMPORTED]  # scores made elsewhere are no ranker of ours
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=DATA)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--mixtures", nargs="+")
    parser.add_argument("--rankers", nargs="+", default=[*rankers, *BASELINES, "ceiling"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rows", type=int, help="candidates sampled per mixture")
    parser.add_argument("--safe", default="mixed", help="name of the safe set")
    parser.add_argument("--safe-rows", type=int)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--output", type=Path)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--small", action="store_true", help="under 20 minutes on 2 cores")
    size.add_argument("--full", action="store_true", help="all rows; for a GPU")
    args, args.settings = parser.parse_known_args()
    if args.small:
        for key, value in SMALL.items():
            if getattr(args, key) in (None, parser.get_default(key)):
                setattr(args, key, value)
    if unknown := [word for word in args.settings if "=" not in word]:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return args


class Task:
    """One mixture with one seed, tokenized once."""

    def __init__(self, args: argparse.Namespace, mixture: str, seed: int) -> None:
        from sealtune.core.config_io import apply_overrides, build_config
        from sealtune.pipeline.inputs import RunInputs

        self.args, self.mixture, self.seed = args, mixture, seed
        safe = mixtures.safe_rows(args.folder, args.safe, args.safe_rows, seed)
        rows = mixtures.candidates(args.folder, mixture, args.rows, seed, safe)
        values = {
            "model_name_or_path": args.model,
            "datasets": [{"path": mixture, "rows": rows}],
            "safe_datasets": [{"path": args.safe, "rows": safe}],
            "max_length": args.max_length,
            "seed": seed,
        }
        self.config = build_config(apply_overrides(values, args.settings))
        self.inputs = RunInputs(self.config)
        self.candidates, self.safe = self.inputs.load_candidates().encoded, self.inputs.load_safe().encoded
        by_id = {sample.id: sample.row for sample in self.inputs.load_rows().samples}
        self.rows = [by_id[row_id] for row_id in self.candidates.ids]

    def key(self, ranker: str) -> dict:
        """What distinguishes a run from all others."""
        where = {key: vars(self.args)[key] for key in ("model", "safe", "safe_rows", "max_length", "settings")}
        return {"mixture": self.mixture, "ranker": ranker, "seed": self.seed, "drawn": self.args.rows} | where

    def measure(self, ranker: str) -> dict:
        """The figures of one ranker."""
        from sealtune.pipeline.environment import git_revision, measured

        special = {"ceiling": self._ceiling, "unseen": self._unseen, "refined": self._refined}
        with count_tokens() as tokens, measured() as cost:
            score, estimate = (special[ranker](), {}) if ranker in special else self._rank(ranker)
        epoch = int(self.candidates.lengths.sum())
        forward, backward = tokens["forward"] / epoch, tokens["backward"] / epoch
        spent = {"forward_epochs": forward, "backward_epochs": backward, "cost": (forward + 2 * backward) / 3}
        sizes = {"rows": len(score), "safe_set": len(self.safe)}
        origin = {"command": command(), "git_revision": git_revision()}
        return sizes | quality(score, self.rows) | estimate | spent | cost | origin

    def decode(self, ids: np.ndarray) -> str:
        """The text of token ids (T,), without special tokens."""
        return str(self.inputs.load_tokenizer().decode(ids, skip_special_tokens=True))

    def _rank(self, ranker: str) -> tuple[np.ndarray, dict]:
        from sealtune.ranking import methods, selection

        job = self._job(ranker, np.arange(len(self.candidates)))
        baseline = BASELINES.get(job.config.rank.method)
        scores = baseline(job, self) if baseline else methods.rank(job)
        found = selection.contamination(scores)
        estimate = {} if found is None else {"estimated_unsafe": found._asdict()}
        return scores.score, estimate | {"reliability": selection.reliability(scores)}

    def _unseen(self) -> np.ndarray:
        from sealtune.ranking import methods

        score = np.empty(len(self.candidates))
        halves = np.array_split(np.random.default_rng(self.seed).permutation(len(score)), 2)
        for known, unknown in (halves, halves[::-1]):
            saved = methods.rank(self._job("probe", known)).selector
            score[unknown] = methods.score(self._job("probe", unknown), saved).score
        return score

    def _refined(self) -> np.ndarray:
        """``probe`` ranks all rows; ``seal`` reorders the third of them around the threshold of 20 %."""
        from sealtune.ranking import methods

        score = methods.rank(self._job("probe", np.arange(len(self.candidates)))).score.copy()
        order = score.argsort()
        middle = order[len(order) // 30 : len(order) // 30 + len(order) // 3]
        again = methods.rank(self._job("seal", np.sort(middle))).score
        score[np.sort(middle)[again.argsort()]] = np.sort(score[middle])
        return score

    def _job(self, ranker: str, rows: np.ndarray) -> Job:
        from sealtune.core.config_io import apply_overrides, build_config
        from sealtune.models.load import load_model
        from sealtune.ranking.job import Job

        method, _, settings = ranker.partition(":")
        own = [f"rank.method={method}", *(f"rank.{setting}" for setting in settings.split(",") if setting)]
        config = build_config(apply_overrides(self.config.model_dump(), own))
        return Job(self.candidates.take(rows), self.safe, config, lambda full: load_model(config, full=full))

    def _ceiling(self) -> np.ndarray:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import StratifiedKFold, cross_val_predict
        from sklearn.pipeline import make_pipeline

        unsafe = np.array([row["unsafe"] for row in self.rows])
        if min(unsafe.sum(), (1 - unsafe).sum()) < 2:
            return np.zeros(len(unsafe))
        texts = [f"{row['prompt']}\n{row['response']}" for row in self.rows]
        model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=100))
        folds = StratifiedKFold(min(5, int(unsafe.sum())), shuffle=True, random_state=self.seed)
        return -cross_val_predict(model, texts, unsafe, cv=folds, method="decision_function")


BASELINES: dict[str, Callable[[Job, Task], Scores]] = {
    "embedding": lambda job, task: embedding.rank(job),
    "moderation": lambda job, task: moderation.rank(job, task.decode),
}


def quality(score: np.ndarray, rows: list[dict]) -> dict[str, float | None]:
    """How well a ranking agrees with the labels; None if the mixture has no such rows.

    If a mixture has rows of low quality and no unsafe ones, AUROC, AP and recall at k refer to the former.
    """
    from sealtune.evaluation import metrics

    unsafe = np.array([int(row["unsafe"]) for row in rows])
    hard = np.array([int(row.get("hard_negative") or 0) for row in rows])
    low = np.array([int(row.get("quality") == "low") for row in rows])
    target = unsafe if unsafe.any() else low
    k = int(target.sum())
    return {
        "unsafe": int(unsafe.sum()),
        "auroc": metrics.auroc(score, target),
        "average_precision": metrics.average_precision(score, target),
        "recall_20": metrics.recall_in_lowest(score, target, 0.2),
        "recall_k": metrics.recall_at_k(score, target, k),
        "hard_negatives_dropped": metrics.recall_in_lowest(score, hard, 0.2),
        "hard_negatives_at_k": metrics.recall_at_k(score, hard, k),
        "low_quality_dropped": metrics.recall_in_lowest(score, low, 0.2),
    }


if __name__ == "__main__":
    main()
