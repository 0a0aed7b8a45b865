"""How much a few decisions of people improve the ranking of all other rows, on labelled mixtures.

After a ranking, the rows about which ``probe`` is least sure are answered by their labels, and it learns from the
answers: first 10, then 30, then 100 in all, each choice made by the ranking that the answers before gave. AUROC and AP
are those of the rows that nobody answered, before any decision and after.

    python benchmarks/quality/decisions.py --mixtures general_20 tasks_5 heavy_50 --rows 300 --safe-rows 128 \
        --max-length 128 --output benchmarks/results/decisions.json rank.learning_rate=1e-3

The model is trained and read once per mixture and seed; only the scorer is fitted again. ``--choose random`` answers as
many rows at random, ``worst`` those with the lowest scores. Data and mixtures are those of ``quality/ranking.py``. Runs
that the output file already has are not repeated.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository

from benchmarks.lib.paths import DATA
from benchmarks.lib.reports import command, write_report
from benchmarks.lib.tables import cell, mean_and_sd
from benchmarks.quality.ranking import Task, earlier_runs

if TYPE_CHECKING:
    from sealtune.core.types import Decision, Scores
    from sealtune.ranking.scorer import Features

WHERE = ("model", "safe", "safe_rows", "max_length", "settings", "rows", "keep", "counts")
MEASURES = ("auroc", "average_precision")


def main() -> None:
    args = parse()
    if not (args.folder / "mixtures").is_dir():
        sys.exit(f"error: {args.folder}/mixtures: no such folder; set --folder or SEALTUNE_DATA to the labelled data")
    runs, wanted = earlier_runs(args.output), []
    for mixture in args.mixtures:
        for seed in args.seeds:
            keys = [{key: vars(args)[key] for key in WHERE} | found_by(mixture, seed, how) for how in args.choose]
            wanted += keys
            left = [key for key in keys if not any(key.items() <= run.items() for run in runs)]
            if left:
                runs += measure(args, mixture, seed, left)
                save(runs, args.output)  # after every mixture, so that an interruption loses only one
    print(markdown([run for run in runs if any(key.items() <= run.items() for key in wanted)]))


def found_by(mixture: str, seed: int, choose: str) -> dict:
    return {"mixture": mixture, "seed": seed, "choose": choose}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=DATA)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--mixtures", nargs="+", default=["general_20", "tasks_5", "heavy_50"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rows", type=int, default=300, help="candidates sampled per mixture")
    parser.add_argument("--safe", default="mixed", help="name of the safe set")
    parser.add_argument("--safe-rows", type=int, default=128)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--counts", nargs="+", type=int, default=[10, 30, 100], help="decisions in all, ascending")
    parser.add_argument("--choose", nargs="+", default=["least_certain", "random"], choices=list(CHOICES))
    parser.add_argument("--keep", type=float, default=0.8, help="the share to keep, which places the threshold")
    parser.add_argument("--output", type=Path)
    args, args.settings = parser.parse_known_args()
    if unknown := [word for word in args.settings if "=" not in word]:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return args


def measure(args: argparse.Namespace, mixture: str, seed: int, keys: list[dict]) -> list[dict]:
    """The runs with these keys, which share a mixture and a seed, and so the features of the model."""
    from sealtune.pipeline.environment import git_revision, measured

    task = Task(args, mixture, seed)
    with measured() as extraction:
        candidates, safe, ids = features(task)
    by_id = {row_id: int(row["unsafe"]) for row_id, row in zip(task.candidates.ids, task.rows, strict=True)}
    unsafe = np.array([by_id[row_id] for row_id in ids])
    runs = []
    for key in keys:
        with measured() as fitting:
            steps = learn(candidates, safe, ids, unsafe, key)
        sizes = {"candidates": len(ids), "unsafe": int(unsafe.sum()), "safe_set": len(task.safe)}
        cost = {"extraction_seconds": extraction["seconds"], "fitting_seconds": fitting["seconds"]}
        runs.append(key | sizes | {"steps": steps} | cost | {"command": command(), "git_revision": git_revision()})
        figures = "  ".join(f"{s['decisions']}: {s['auroc_before']} → {s['auroc']}" for s in steps)
        print(f"{mixture} seed {seed} {key['choose']}  {figures}", file=sys.stderr, flush=True)
    return runs


def features(task: Task) -> tuple[Features, Features, list[str]]:
    """What ``probe`` sees of both sets, and the ids of the candidates; all sorted by id, as it sorts them."""
    from sealtune.ranking.methods.probe import SafeTuning

    job = task._job("probe", np.argsort(np.array(task.candidates.ids)))
    job = replace(job, safe=job.safe.take(np.argsort(np.array(job.safe.ids))))
    candidates, safe = SafeTuning(job).run()
    finite = candidates.losses.isfinite()
    ids = [row_id for row_id, usable in zip(job.candidates.ids, finite.tolist(), strict=True) if usable]
    return candidates.take(finite), safe.take(safe.losses.isfinite()), ids


def learn(candidates: Features, safe: Features, ids: list[str], unsafe: np.ndarray, key: dict) -> list[dict]:
    """AUROC and AP on the rows without a decision, before any and after each number of decisions."""
    from sealtune.evaluation import metrics

    measures = {"auroc": metrics.auroc, "average_precision": metrics.average_precision}
    first = scores = rank(candidates, safe, ids, key["seed"], {})
    made: dict[str, Decision] = {}
    steps = []
    for count in key["counts"]:
        if count >= len(ids):
            break
        made |= answer(scores, made, count - len(made), unsafe, key)
        scores = rank(candidates, safe, ids, key["seed"], made)
        rest = np.array([row_id not in made for row_id in ids])
        step = {"decisions": count, "unsafe_among_them": int(unsafe[~rest].sum())}
        for name, value in measures.items():
            step |= {
                f"{name}_before": value(first.score[rest], unsafe[rest]),
                name: value(scores.score[rest], unsafe[rest]),
            }
        steps.append(step)
    return steps


def rank(candidates: Features, safe: Features, ids: list[str], seed: int, made: dict[str, Decision]) -> Scores:
    from sealtune.core.types import Scores
    from sealtune.ranking.marks import marks_of
    from sealtune.ranking.scorer import fit_scorer, standard_errors

    marks = marks_of(made, ids)
    score = fit_scorer(candidates, safe, seed, marks).score.numpy()
    error = standard_errors(candidates, safe, seed, marks).numpy()
    return Scores.unweighted(ids, ["mixture"] * len(ids), score, standard_error=error)


def answer(scores: Scores, made: dict[str, Decision], count: int, unsafe: np.ndarray, key: dict) -> dict[str, Decision]:
    """Decisions about ``count`` more rows, from their labels."""
    from sealtune.core.types import Decision

    free = [i for i in CHOICES[key["choose"]](scores, made, key) if scores.ids[i] not in made][:count]
    verbs = ["drop" if unsafe[i] else "keep" for i in free]
    return {
        scores.ids[i]: Decision(scores.ids[i], verb, "label", "2026-01-01") for i, verb in zip(free, verbs, strict=True)
    }


def least_certain(scores: Scores, made: dict[str, Decision], key: dict) -> np.ndarray:
    from sealtune.core.config import SelectConfig
    from sealtune.ranking import selection

    threshold = selection.select(scores, SelectConfig(keep_ratio=key["keep"]), made).threshold
    return selection.least_certain(scores, threshold, made)


CHOICES = {
    "least_certain": least_certain,
    "random": lambda scores, made, key: np.random.default_rng(key["seed"]).permutation(len(scores)),
    "worst": lambda scores, made, key: np.argsort(scores.score, kind="stable"),
}
"""How the rows to decide about are chosen: from the scores, the decisions so far and the settings, rows in order."""


def save(runs: list[dict], output: Path | None) -> None:
    """Write the runs, and their table as Markdown next to them."""
    from sealtune.pipeline.environment import machine, versions

    if not output:
        return
    write_report({"runs": runs, "machine": machine(), "versions": versions()}, output)
    commands = "\n".join(f"    {command}" for command in dict.fromkeys(run["command"] for run in runs))
    output.with_suffix(".md").write_text(f"{commands}\n\n{markdown(runs)}\n", encoding="utf-8")


def markdown(runs: list[dict]) -> str:
    """One row per mixture, way to choose and number of decisions: mean ± standard deviation over the seeds."""
    heads = ["mixture", "chosen", "decisions", "seeds", "AUROC before", "AUROC after", "gain", "AP before", "AP after"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    groups: dict[tuple, list[dict]] = {}
    for run in runs:
        for step in run["steps"]:
            groups.setdefault((run["mixture"], run["choose"], step["decisions"]), []).append(step)
            groups.setdefault(("mean", run["choose"], step["decisions"]), []).append(step)
    for where, steps in sorted(groups.items(), key=lambda item: (item[0][0] == "mean", *item[0])):
        steps = [step for step in steps if None not in (step["auroc"], step["auroc_before"])]
        gain = mean_and_sd([step["auroc"] - step["auroc_before"] for step in steps])
        columns = [f"{measure}{when}" for measure in MEASURES for when in ("_before", "")]
        figures = [cell(mean_and_sd([step[column] for step in steps]), 3) for column in columns]
        figures.insert(2, cell(gain, 3))
        lines.append(f"| {' | '.join([*map(str, where), str(len(steps)), *figures])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
