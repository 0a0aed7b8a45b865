"""What ranking takes at scale: the page and the code say the same, and the formulas what was counted."""

import json
from pathlib import Path

import pytest
import torch
from sealtune.plan import Case, limits, size
from typer.testing import CliRunner

from sealtune.cli.dimensions import Shape
from sealtune.cli.estimate import GPUS
from sealtune.cli.flops import rank_work
from sealtune.cli.gpu_memory import Engine, rank_bytes, row_bytes, scratch_bytes
from sealtune.cli.main import app
from sealtune.core.config_io import build_config
from sealtune.ranking.job import Amounts

ROOT = Path(__file__).parents[1]
TINY = Shape(layers=10, hidden=4, inner=8, heads=2, kv_heads=1, vocabulary=10, head_size=2)


@pytest.fixture
def plan(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import plan

    return plan


def case(shape=TINY, gpus=4, rows=100, **rank):
    settings = {"method": "seal", "lora_r": 1, "per_device_train_batch_size": 2, **rank}
    config = build_config({"model_name_or_path": "-", "dtype": "bfloat16", "max_length": 8, "rank": settings})
    return Case(shape, config, Amounts(rows, 8, 50), GPUS["H100"], gpus)


def test_the_tables_of_the_page_are_what_the_code_says(plan):
    page = (ROOT / "docs/scale.md").read_text(encoding="utf-8")
    assert plan.filled(page) == page, "run `python benchmarks/plan.py --write`"
    assert all(page.count(f"<!-- {name} -->") == 1 for name in plan.tables())
    assert all(table in page for table in plan.tables().values())


def test_the_formulas_give_what_was_counted(plan):
    report = json.loads((plan.RESULTS / "plan.json").read_text(encoding="utf-8"))
    for name, found in report["counted"].items():
        operations, held = plan.predicted(name)
        assert operations == pytest.approx(found["operations_per_token"], rel=0.02), name
        assert found["bytes"] * 0.99 < held < found["bytes"] * 1.25, name
    assert row_bytes(TINY, case().config) == pytest.approx(report["bytes_a_row"], rel=0.1)


def test_a_model_is_counted_as_the_file_of_results_says(plan, monkeypatch):
    from counted import count

    shape = Shape(2, 64, 192, 4, 2, 128, 16)
    monkeypatch.setitem(plan.COUNTED, "tiny", (shape, {"batch": 2, "length": 32}, {"gradient_checkpointing": True}))
    config = plan.config_of(2, 32, {"gradient_checkpointing": True})
    real, imagined = count(shape, config, imagined=False)[0], count(shape, config, imagined=True)[0]
    assert real == imagined
    assert plan.predicted("tiny")[0] == pytest.approx(real, rel=0.05)
    assert torch.get_default_dtype() == torch.float32


def test_what_the_engines_hold_and_send_worked_out_by_hand():
    one, block = case(algorithm=1), 2 * 144  # bytes of a block
    several, spread = one.memory(Engine("multi_gpu", 4)), one.memory(Engine("fsdp2", 4))
    assert several == one.memory(Engine("zero2", 4)) == one.memory(Engine())
    assert several - spread == 10 * block * 3 / 4 - 2 * block  # a quarter of the blocks, and two whole
    assert spread == one.memory(Engine("zero3", 4))
    # Three passes over batches of 2 x 4 rows: 8 bytes a loss; two players with 10 x (8 + 6) weights in float32.
    ring = 2 * 3 / 4
    assert one.network(Engine("multi_gpu", 4)) == (ring * 3 * 8 * 8, ring * 2 * 140 * 4, 0)
    assert one.network(Engine("fsdp2", 4)).weights == 3 * 2 * 10 * block * 3 / 4
    assert one.network(Engine()) == (0, 0, 0)


def test_what_a_row_takes():
    config = case().config
    assert row_bytes(TINY, config, 8) == 8 + 28 + 40
    assert row_bytes(TINY, case(shard_selector=True).config, 4) == 8 + 28 / 4 + 40
    assert row_bytes(TINY, case(selector_update="adam").config) == 8 + 28 + 16 + 40
    assert row_bytes(TINY, case(method="probe").config) == 40 + 180
    assert scratch_bytes(TINY, case(method="probe").config) == 2 * 4 * 4
    assert scratch_bytes(TINY, config) == 0
    assert row_bytes(TINY, case(method="loss").config) == 40


def test_only_what_can_run_is_offered():
    names = [name for name, _, _ in case(use_peft=False).engines()]
    assert names == ["single_gpu", "multi_gpu", "zero2"]
    four_bit = case().with_config(load_in_4bit=True)
    assert [name for name, _, _ in four_bit.engines()] == ["single_gpu", "multi_gpu", "zero2"]
    assert len(list(case().engines())) == 6


def test_the_first_knob_that_is_enough_is_named(plan):
    assert limits(plan.case("8B")) == []
    (memory,) = limits(plan.case("70B"))
    assert "158 GB on one GPU of 80 GB" in memory.what
    assert memory.knob.startswith("fsdp2 on 8 GPUs (42 GB each)") and memory.knob.endswith(
        "load_in_4bit=true (57.6 GB)"
    )
    (memory,) = limits(plan.case("8B", gradient_checkpointing=False, per_device_train_batch_size=8))
    assert "rank.gradient_checkpointing=true (" in memory.knob
    (memory,) = limits(plan.case("70B", gpus=2, per_device_train_batch_size=512))
    assert memory.knob.startswith("rank.per_device_train_batch_size=1 and more accumulation, load_in_4bit=true (")
    memory, *_ = limits(case(Shape(100, 16_384, 65_536, 128, 8, 128_000, 128), gpus=2))
    assert memory.knob == "a lower max_length, more GPUs, or a smaller model that ranks"


def test_the_network_is_named_where_it_is_slower_than_the_products(plan):
    what = [limit.what for limit in limits(plan.case("70B", gpus=64))]
    assert any(line.startswith("gathering the weights takes 2.") for line in what)
    assert not any("gathering" in limit.what for limit in limits(plan.case("70B", gpus=8)))


def test_work_and_memory_grow_with_the_rows():
    few, many = case(rows=100), case(rows=1000)
    assert many.gpu_hours() == pytest.approx(10 * few.gpu_hours())
    assert many.memory(Engine()) == few.memory(Engine()) == rank_bytes(TINY, few.config)
    assert rank_work(few.config, few.amounts).forward == 3 * (100 + 100)
    shared = case(rows=100, method="probe")
    assert rank_work(shared.config, shared.amounts) == (100 + 50 + 2 * 64, 2 * 64)
    assert rank_work(shared.config, shared.amounts._replace(safe_rows=1000)) == (100 + 1000 + 1000, 1000)
    lone = shared.amounts._replace(rows=2, safe_rows=1)  # batches of one row: two epochs over the rows allow for three
    assert rank_work(shared.config, lone) == (2 + 1 + 3, 3)
    assert many.host_bytes() == 10 * few.host_bytes() == 76_000


def test_sizes_for_people():
    assert [size(count) for count in (0, 999, 1000, 65.6e9, 6.56e12, 1.2e16)] == [
        "0 B",
        "999 B",
        "1 kB",
        "65.6 GB",
        "6.56 TB",
        "12,000 TB",
    ]


def test_the_command_prints_the_plan(tmp_path):
    (tmp_path / "run.yaml").write_text(
        "model_name_or_path: meta-llama/Meta-Llama-3-70B-Instruct\ndatasets: [no.jsonl]\n"
    )
    told = CliRunner().invoke(app, ["env", "--plan", str(tmp_path / "run.yaml"), "--rows", "1000000", "--gpus", "16"])
    assert told.exit_code == 0, told.output
    lines = told.output.splitlines()
    assert any(line.split()[:2] == ["fsdp2", "16"] for line in lines)
    assert any(line.split()[:1] == ["1,000,000,000"] for line in lines)
    assert "1,000,000 rows of 400 tokens, H100" in told.output and "what gives way first:" in told.output
    assert CliRunner().invoke(app, ["env", "--plan"]).exit_code == 2
    wrong = CliRunner().invoke(app, ["env", str(tmp_path / "run.yaml"), "--plan", "--gpu", "T4"])
    assert wrong.exit_code == 2 and "there are A100, H100, H200" in wrong.output
