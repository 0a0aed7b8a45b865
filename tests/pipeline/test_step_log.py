"""The step log stays small however many steps there are, and keeps its totals."""

import dataclasses

import pytest

from sealtune.pipeline import step_log
from sealtune.pipeline.folder import RunFolder
from sealtune.pipeline.step_log import StepLog
from sealtune.ranking.progress import StepRecord


def step(number):
    return StepRecord(number, number // 4, 0.1, float(number), None if number % 2 else 2.0, None, None, 8, 100, 0.5)


@pytest.fixture
def log(tmp_path, monkeypatch):
    monkeypatch.setattr(step_log, "MAX_RECORDS", 10)
    return StepLog(RunFolder(tmp_path), {}, 10**6, lambda *args: None)


def test_few_steps_have_one_record_per_step(log):
    for i in range(1, 11):
        log.on_step(step(i), 100, dict)
    assert log.records == [dataclasses.asdict(step(i)) for i in range(1, 11)]


def test_records_of_many_steps_are_merged_and_totals_are_kept(log):
    for i in range(1, 98):
        log.on_step(step(i), 100, dict)
        assert len(log.records) <= 10
    assert [r["step"] for r in log.records] == sorted(r["step"] for r in log.records)
    assert log.records[-1]["step"] == 97
    assert (sum(r["tokens"] for r in log.records), sum(r["rows"] for r in log.records)) == (97 * 100, 97 * 8)
    assert sum(r["seconds"] for r in log.records) == 97 / 2
    first = log.records[0]
    assert first["safe_loss"] == pytest.approx((1 + first["step"]) / 2)
    assert first["candidate_loss"] == 2.0 and first["gap"] is None
