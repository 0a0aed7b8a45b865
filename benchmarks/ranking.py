"""How well rankers find the unsafe rows of labelled mixtures, and what they cost, in one run.

A mixture is a JSONL file with the truth in its columns: ``unsafe`` (1 = the answer harms), ``hard_negative`` (1 = a
safe answer to a sensitive prompt, to be kept) and ``quality`` (``low``). No ranker sees them. The folder of the data
holds ``mixtures/*.jsonl`` and ``safe/*.jsonl``; it is $SEALTUNE_DATA or --folder.

    python benchmarks/ranking.py --small --output benchmarks/results/ranking-small.json
    python benchmarks/ranking.py --mixtures general_20 general_20~0.05 --rankers loss seal:algorithm=1,gamma=0.1

A ranker may carry settings of its own (``seal:algorithm=1``); settings of all of them come last (``rank.lora_r=8``).
A mixture may be thinned or enriched (see ``mixtures.py``). Every seed draws rows of its own, the same for all rankers.
What an output file holds already, measured on the same rows with the same settings, is kept and not measured again.

Cost counts tokens that pass through the model, a backward pass as two forward ones, as a multiple of one plain
fine-tuning epoch over the candidates. Three names are no rankers: ``ceiling`` is a TF-IDF and logistic regression
trained on the labels themselves, cross-validated; ``unseen`` ranks one half of the rows and scores the other half as
rows never seen, by halves; ``refined`` is ``shared``, after which ``seal`` orders anew the rows around the threshold.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

import mixtures
import tables

SMALL = {"rows": 40, "safe_rows": 28, "max_length": 128, "mixtures": ["general_20"]}


def main() -> None:
    args = parse()
    folder = Path(args.folder)
    if not (folder / "mixtures").is_dir():
        sys.exit(f"error: {folder}/mixtures: no such folder; name the labelled data by --folder or SEALTUNE_DATA")
    runs = measured_before(args.output)
    wanted = []
    for mixture in args.mixtures or sorted(p.stem for p in (folder / "mixtures").glob("*.jsonl")):
        for seed in args.seeds:
            task = Task(args, folder, mixture, seed)
            for ranker in args.rankers:
                key = task.about(ranker)
                wanted.append(key)
                if any(key.items() <= run.items() for run in runs):
                    continue
                runs.append(key | task.measure(ranker))
                print(tables.line(runs[-1]), file=sys.stderr, flush=True)
                save(runs, args.output)  # after each: what was measured is not lost
    print(tables.markdown(tables.table([run for run in runs if any(key.items() <= run.items() for key in wanted)])))


def measured_before(output: Path | None) -> list[dict]:
    """Runs that the output file holds already."""
    return json.loads(output.read_text())["runs"] if output and output.exists() else []


def save(runs: list[dict], output: Path | None) -> None:
    """Write the runs and, beside them, their table."""
    from sealtune.pipeline.environment import machine, versions

    if not output:
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    found = tables.table(runs)
    content = {"runs": runs, "table": found, "machine": machine(), "versions": versions()}
    output.write_text(json.dumps(content, indent=1) + "\n")
    commands = "\n".join(f"    {command}" for command in dict.fromkeys(run["command"] for run in runs))
    output.with_suffix(".md").write_text(f"{commands}\n\n{tables.markdown(found)}")


def parse() -> argparse.Namespace:
    """The command line; ``--small`` fills in what was not given."""
    from sealtune.ranking import methods

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", default=os.environ.get("SEALTUNE_DATA", "../shared/data"))
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--mixtures", nargs="+")
    parser.add_argument("--rankers", nargs="+", default=[*methods.names(), "ceiling"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rows", type=int, help="candidates drawn of a mixture")
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
    """One mixture with one seed, tokenised once."""

    def __init__(self, args: argparse.Namespace, folder: Path, mixture: str, seed: int) -> None:
        from sealtune.core.config_io import apply_overrides, build_config
        from sealtune.pipeline.inputs import Material

        self.args, self.mixture, self.seed = args, mixture, seed
        safe = mixtures.safe_rows(folder, args.safe, args.safe_rows, seed)
        rows = mixtures.candidates(folder, mixture, args.rows, seed, safe)
        values = {
            "model_name_or_path": args.model,
            "datasets": [{"path": mixture, "rows": rows}],
            "safe_datasets": [{"path": args.safe, "rows": safe}],
            "max_length": args.max_length,
            "seed": seed,
        }
        self.config = build_config(apply_overrides(values, args.settings))
        self.material = Material(self.config)
        self.candidates, self.safe = self.material.candidates[0], self.material.safe[0]
        by_id = {sample.id: sample.row for sample in self.material.rows.samples}
        self.rows = [by_id[row_id] for row_id in self.candidates.ids]

    def about(self, ranker: str) -> dict:
        """What a run is told from others by."""
        where = {key: vars(self.args)[key] for key in ("model", "safe", "safe_rows", "max_length", "settings")}
        return {"mixture": self.mixture, "ranker": ranker, "seed": self.seed, "drawn": self.args.rows} | where

    def measure(self, ranker: str) -> dict:
        """One ranker's figures."""
        from sealtune.pipeline.environment import git_revision, measured

        special = {"ceiling": self._ceiling, "unseen": self._unseen, "refined": self._refined}
        with counted() as tokens, measured() as cost:
            score, estimate = (special[ranker](), {}) if ranker in special else self._rank(ranker)
        epoch = int(self.candidates.lengths.sum())
        forward, backward = tokens["forward"] / epoch, tokens["backward"] / epoch
        spent = {"forward_epochs": forward, "backward_epochs": backward, "cost": (forward + 2 * backward) / 3}
        sizes = {"rows": len(score), "safe_set": len(self.safe)}
        made = {"command": " ".join(["python", *sys.argv]), "git_revision": git_revision()}
        return sizes | quality(score, self.rows) | estimate | spent | cost | made

    def _rank(self, ranker: str) -> tuple[np.ndarray, dict]:
        from sealtune.ranking import methods, selection

        scores = methods.rank(self._job(ranker, np.arange(len(self.candidates))))
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
        """``shared`` over all rows; ``seal`` then orders anew the third of them that lies around the line of 20 %."""
        from sealtune.ranking import methods

        score = methods.rank(self._job("probe", np.arange(len(self.candidates)))).score.copy()
        order = score.argsort()
        unsure = order[len(order) // 30 : len(order) // 30 + len(order) // 3]
        again = methods.rank(self._job("seal", np.sort(unsure))).score
        score[np.sort(unsure)[again.argsort()]] = np.sort(score[unsure])
        return score

    def _job(self, ranker: str, rows: np.ndarray):
        from sealtune.core.config_io import apply_overrides, build_config
        from sealtune.models import load as models
        from sealtune.ranking.job import Job

        method, _, settings = ranker.partition(":")
        own = [f"rank.method={method}", *(f"rank.{setting}" for setting in settings.split(",") if setting)]
        config = build_config(apply_overrides(self.config.model_dump(), own))
        return Job(
            self.candidates.take(rows),
            self.safe,
            config,
            lambda full: models.load_model(config, full=full),
            decode=self.material.decode,
        )

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


def quality(score: np.ndarray, rows: list[dict]) -> dict[str, float | None]:
    """What the truth says of a ranking; None where the mixture has no such rows.

    Where a mixture has rows of low quality and none that is unsafe, AUROC, AP and recall at k are of the former.
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


@contextmanager
def counted() -> Iterator[dict[str, int]]:
    """Tokens that pass forward and backward through a language model within the block, padding not counted."""
    from sealtune.models.causal_lm import LanguageModel

    tokens = {"forward": 0, "backward": 0}
    original = LanguageModel.__init__

    def count(body, args, kwargs, output):
        real = int((kwargs["input_ids"] != 0).sum())  # padding is token 0, which hardly any row holds
        tokens["forward"] += real
        tokens["backward"] += real * output.last_hidden_state.requires_grad

    def counting(self, model):
        original(self, model)
        self.body.register_forward_hook(count, with_kwargs=True)

    LanguageModel.__init__ = counting
    try:
        yield tokens
    finally:
        LanguageModel.__init__ = original


if __name__ == "__main__":
    main()
