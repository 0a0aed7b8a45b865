"""The folder of a run: its scores, selector and manifest. Files appear completely or not at all; no pickle is read."""

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
from sealtune.core.json_rows import to_json_type
from sealtune.core.string_array import IntArray, StringArray
from sealtune.core.types import Scores
from sealtune.pipeline import validate
from sealtune.pipeline.manifest import Manifest, StageEntry, parse_manifest
from sealtune.pipeline.validate import Record

STAGE_ORDER = ("rank", "select", "tune", "evaluate", "report")
ROW_GROUP = 2**20

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
PART = "part_"
"""Columns of scores.parquet that begin so are summands of the score."""
PLACE = ("map_x", "map_y")
"""Columns of scores.parquet with the places of the rows on a map."""


class RunFolder(Folder):
    """The folder of a run: one subfolder per stage, and a manifest of their inputs and outputs."""

    def read_records(self, name: str, kind: type[Record]) -> list[Record]:
        """The rows of a JSONL file as records of one kind. Raises UserError on an invalid row."""
        return validate.records(kind, self.read_jsonl(name), self.path(name))

    def kept_ids(self) -> StringArray:
        """Ids of the rows kept by the selection. Raises UserError if the list is missing or invalid."""
        return validate.ids(self.read_json("select/kept_ids.json"), self.path("select/kept_ids.json"))

    # -- scores ------------------------------------------------------------------------------------------------------

    def write_scores(self, scores: Scores, positions: IntArray, name: str = "rank/scores.parquet") -> None:
        """Write the scores.

        Args:
            scores: N scores.
            positions: (N,), each row's position among all rows read, from 0; the column ``row``.
            name: Name of the file.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = {column: _column(getattr(scores, field), len(scores)) for column, field in SCORE_COLUMNS.items()}
        columns |= {PART + name: values for name, values in scores.parts.items()}
        if scores.places is not None:
            columns |= dict(zip(PLACE, scores.places.T, strict=True))
        table = pa.table({"id": columns.pop("id"), "row": np.asarray(positions, np.int64), **columns})
        texts = {"id": pa.string(), "source": pa.string()}
        schema = pa.schema([(field.name, texts.get(field.name, field.type)) for field in table.schema])
        with self.atomic_file(name) as scratch, pq.ParquetWriter(scratch, schema) as writer:
            for batch in table.to_batches(max_chunksize=ROW_GROUP):
                writer.write_batch(batch.cast(schema))

    def read_scores(self) -> Scores:
        """Read rank/scores.parquet. Raises UserError if it is missing or invalid."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self.path("rank/scores.parquet")
        if not path.exists():
            raise UserError(f"{path}: no such file; run `sealtune rank` first")
        try:
            found_columns = pq.read_schema(path).names
            extra = [name for name in found_columns if name.startswith(PART) or name in PLACE]
            table = pq.read_table(path, columns=[*SCORE_COLUMNS, *extra], read_dictionary=["source"])
            table.validate(full=True)
        except (pa.ArrowException, OSError, ValueError, LookupError, TypeError, OverflowError) as error:
            raise UserError(f"{path}: not a file of scores ({error}); rank again") from None
        found = validate.scores(table, SCORE_COLUMNS, path)
        shown = validate.score_details(table, extra, PART, PLACE, path)
        return replace(found, **shown, selector=self.read_selector(["safe_probe_logit"]))

    def write_selector(self, scores: Scores, method: str, weighting: str) -> None:
        """Write what the ranker saved to score other rows, else its logits in the order of scores.parquet."""
        from safetensors.numpy import save_file

        arrays = scores.selector or {"omega": scores.score}
        with self.atomic_file("rank/selector.safetensors") as scratch:
            save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, scratch)
        about = {"method": method, "weighting": weighting, "rows": len(scores)}
        if scores.selector:
            about |= {"kind": "scorer"}
        else:
            about |= {"kind": "free_logits", "ids": "rank/scores.parquet, column id"}
        self.write_json("rank/selector_config.json", about)

    def read_selector(self, names: Sequence[str] | None = None) -> dict[str, npt.NDArray[Any]]:
        """The selector's arrays, or those with these names; empty if there is no file. Raises UserError."""
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

    def manifest(self) -> Manifest:
        """The manifest; empty if there is none yet. Raises UserError if it is invalid."""
        if not self.path("manifest.json").exists():
            return Manifest()
        return parse_manifest(self.read_json("manifest.json"), self.path("manifest.json"))

    def is_done(self, stage: str, inputs: Mapping[str, Any]) -> bool:
        """Whether the stage was finished from exactly these inputs and its files are unchanged."""
        entry = self.manifest().stages.get(stage)
        if entry is None or entry.inputs != _as_json(inputs):
            return False
        return all(self._is_unchanged(name, digest) for name, digest in entry.outputs.items())

    def adopt(self, stage: str, inputs: Mapping[str, Any], lender: RunFolder, provenance: Mapping[str, Any]) -> bool:
        """Copy a stage that another run finished from the same inputs. Returns whether it did."""
        if self.is_done(stage, inputs) or not lender.is_done(stage, inputs):
            return False
        entry = lender.manifest().stages[stage]
        for name in entry.outputs:
            with self.atomic_file(name) as scratch:
                shutil.copyfile(lender.path(name), scratch)
        self.finish_stage(stage, inputs, entry.outputs, entry.facts(), provenance)
        return True

    def finish_stage(
        self,
        stage: str,
        inputs: Mapping[str, Any],
        outputs: Iterable[str],
        facts: Mapping[str, Any],
        provenance: Mapping[str, Any],
    ) -> None:
        """Record a finished stage in the manifest, and forget the later stages, whose inputs it replaced.

        Args:
            stage: Its name.
            inputs: Everything that the result depends on.
            outputs: Names of the files that it wrote.
            facts: Its cost, and other facts.
            provenance: Top-level keys of the manifest.
        """
        if self.read_only:
            return
        entry = StageEntry(
            inputs=_as_json(inputs),
            outputs={name: hash_file(self.path(name)) for name in outputs},
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            **_as_json(facts),
        )
        manifest = self.manifest()
        before = STAGE_ORDER[: STAGE_ORDER.index(stage)]
        stages = {name: found for name, found in manifest.stages.items() if name in before} | {stage: entry}
        self.write_json("manifest.json", manifest.updated(provenance, stages).as_dict())

    def outputs_of(self, stage: str) -> dict[str, str]:
        """Hashes of a finished stage's files. Raises UserError if it was not run or its files changed."""
        entry = self.manifest().stages.get(stage)
        if entry is None:
            raise UserError(
                f"{self.root}: {stage} has not been run here; run `sealtune {stage} --out {self.root}` first"
            )
        for name, digest in entry.outputs.items():
            if not self._is_unchanged(name, digest):
                raise UserError(f"{self.path(name)}: changed or missing since {stage} was run; run it again")
        return entry.outputs

    def _is_unchanged(self, name: str, digest: str) -> bool:
        return self.path(name).is_file() and hash_file(self.path(name)) == digest


def _as_json(values: Mapping[str, Any]) -> Any:
    """The values as they are once they were written and read."""
    return json.loads(json.dumps(values, default=to_json_type))


def _column(values: Any, n: int) -> Any:
    """A column of n values; NaN if the ranker gives none."""
    if values is None:
        return np.full(n, np.nan)
    return values if isinstance(values, np.ndarray) else StringArray.of(values).values
