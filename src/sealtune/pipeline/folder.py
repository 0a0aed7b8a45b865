"""Run folders are read and written here (and in checkpoints, ledger). A file appears whole or not at all; no pickle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from sealtune.core.errors import UserError
from sealtune.core.files import Folder, hash_file
from sealtune.core.json_rows import plain as plain
from sealtune.core.string_array import IntArray, StringArray
from sealtune.core.types import Scores
from sealtune.pipeline import validate
from sealtune.pipeline.validate import Record

STAGE_ORDER = ("rank", "select", "tune", "evaluate", "report")
ROW_GROUP = 2**20


class RunFolder(Folder):
    """The folder of a run: one folder per stage, and the manifest that lists their inputs and outputs."""

    # -- whole files -------------------------------------------------------------------------------------------------

    def read_records(self, name: str, kind: type[Record]) -> list[Record]:
        """Rows of a JSONL file as records of one kind. Raises UserError where they are not."""
        return validate.records(kind, self.read_jsonl(name), self.path(name))

    def kept_ids(self) -> StringArray:
        """Ids of the rows that selection kept. Raises UserError where there is no such list."""
        return validate.ids(self.read_json("select/kept_ids.json"), self.path("select/kept_ids.json"))

    # -- scores ------------------------------------------------------------------------------------------------------

    def write_scores(self, scores: Scores, positions: IntArray, name: str = "rank/scores.parquet") -> None:
        """Write the scores; ``positions`` (N,) tells each row's place among all rows read, from 0."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = {column: _column(getattr(scores, field), len(scores)) for column, field in SCORE_COLUMNS.items()}
        table = pa.table({"id": columns.pop("id"), "row": positions, **columns})
        texts = {"id": pa.string(), "source": pa.string()}
        schema = pa.schema([(field.name, texts.get(field.name, field.type)) for field in table.schema])
        with self.whole_file(name) as scratch, pq.ParquetWriter(scratch, schema) as writer:
            for batch in table.to_batches(max_chunksize=ROW_GROUP):
                writer.write_batch(batch.cast(schema))

    def read_scores(self) -> Scores:
        """Read rank/scores.parquet. Raises UserError where it is missing or is not one."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self.path("rank/scores.parquet")
        if not path.exists():
            raise UserError(f"{path}: no such file; run `sealtune rank` first")
        try:
            table = pq.read_table(path, columns=list(SCORE_COLUMNS), read_dictionary=["source"])
            table.validate(full=True)
        except (pa.ArrowException, OSError, ValueError, LookupError, TypeError, OverflowError) as error:
            raise UserError(f"{path}: not a file of scores ({error}); rank again") from None
        found = validate.scores(table, SCORE_COLUMNS, path)
        return replace(found, selector=self.read_selector(["safe_probe_logit"]))

    def write_selector(self, scores: Scores, method: str, weighting: str) -> None:
        """Write the selector (its logits, in the order of scores.parquet, or what scores any row) and what it is."""
        from safetensors.numpy import save_file

        arrays = scores.selector or {"omega": scores.score}
        with self.whole_file("rank/selector.safetensors") as scratch:
            save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, scratch)
        about = {"method": method, "weighting": weighting, "rows": len(scores)}
        if scores.selector:
            about |= {"kind": "scorer"}
        else:
            about |= {"kind": "free_logits", "ids": "rank/scores.parquet, column id"}
        self.write_json("rank/selector_config.json", about)

    def read_selector(self, names: Sequence[str] | None = None) -> dict[str, npt.NDArray[Any]]:
        """The selector's arrays, or those of these names that it has; none where there is no file."""
        from safetensors import SafetensorError, safe_open

        path = self.path("rank/selector.safetensors")
        if not path.exists():
            return {}
        try:
            with safe_open(path, framework="numpy") as file:
                return {name: file.get_tensor(name) for name in file.keys() if names is None or name in names}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"{path}: not a selector ({error}); rank again") from None

    # -- manifest ----------------------------------------------------------------------------------------------------

    def manifest(self) -> dict[str, Any]:
        """The manifest; empty where there is none yet."""
        if not self.path("manifest.json").exists():
            return {}
        return validate.manifest(self.read_json("manifest.json"), self.path("manifest.json"))

    def is_done(self, stage: str, inputs: Mapping[str, Any]) -> bool:
        """Whether the stage was finished from these very inputs and its files are still as it left them."""
        entry = self.manifest().get("stages", {}).get(stage)
        if entry is None or entry["inputs"] != json.loads(json.dumps(inputs, default=plain)):
            return False
        outputs: dict[str, str] = entry["outputs"]
        return all(self.path(name).is_file() and hash_file(self.path(name)) == d for name, d in outputs.items())

    def adopt(self, stage: str, inputs: Mapping[str, Any], lender: RunFolder, about: Mapping[str, Any]) -> bool:
        """Take over a stage that another run finished from the same inputs; whether there was one to take."""
        if self.is_done(stage, inputs) or not lender.is_done(stage, inputs):
            return False
        entry = lender.manifest()["stages"][stage]
        for name in entry["outputs"]:
            with self.whole_file(name) as scratch:
                shutil.copyfile(lender.path(name), scratch)
        cost = {name: value for name, value in entry.items() if name not in ("inputs", "outputs", "finished")}
        self.finish_stage(stage, inputs, entry["outputs"], cost, about)
        return True

    def finish_stage(
        self,
        stage: str,
        inputs: Mapping[str, Any],
        outputs: Iterable[str],
        cost: Mapping[str, Any],
        about: Mapping[str, Any],
    ) -> None:
        """Enter a finished stage into the manifest: inputs, hashes of its outputs, cost; ``about`` at the top."""
        if not self.keeps:
            return
        manifest = self.manifest() | dict(about)
        entry = {
            "inputs": inputs,
            "outputs": {name: hash_file(self.path(name)) for name in outputs},
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            **cost,
        }
        # What later stages made came from what this one replaced: they are no longer finished.
        before = STAGE_ORDER[: STAGE_ORDER.index(stage)]
        manifest["stages"] = {k: v for k, v in manifest.get("stages", {}).items() if k in before} | {stage: entry}
        self.write_json("manifest.json", manifest)

    def outputs_of(self, stage: str) -> dict[str, str]:
        """Hashes of a finished stage's files. Raises UserError where it was not run or they changed."""
        entry = self.manifest().get("stages", {}).get(stage)
        if entry is None:
            raise UserError(
                f"{self.root}: {stage} has not been run here; run `sealtune {stage} --out {self.root}` first"
            )
        outputs: dict[str, str] = entry["outputs"]
        for name, digest in outputs.items():
            if not self.path(name).is_file() or hash_file(self.path(name)) != digest:
                raise UserError(f"{self.path(name)}: changed or missing since {stage} was run; run that again")
        return outputs


SCORE_COLUMNS = {
    "id": "ids",
    "source": "source",
    "score": "score",
    "weight": "weight",
    "loss": "loss",
    "gap": "gap",
    "visits": "visits",
    "standard_error": "standard_error",
    "probe_logit": "probe_logit",
}
"""Column of scores.parquet -> field of Scores."""


def _column(values: Any, n: int) -> Any:
    """A column of n values; NaN in all of them where a ranker gives none."""
    if values is None:
        return np.full(n, np.nan)
    return values if isinstance(values, np.ndarray) else StringArray.of(values).values
