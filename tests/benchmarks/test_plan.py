"""The tables of docs/scale.md agree with the code, and the formulas with what was counted."""

import json

import pytest
import torch

from benchmarks.cost import plan
from benchmarks.lib.capacity import Case, limits, size
from benchmarks.lib.operation_counter import count
from sealtune.cli.dimensions import ModelDimensions
from sealtune.cli.estimate import GPUS
from sealtune.cli.gpu_memory import Strategy, rank_bytes
from sealtune.core.config_io import build_config
from sealtune.ranking.job import Amounts

TINY = ModelDimensions(layers=10, hidden=4, intermediate=8, heads=2, kv_heads=1, vocabulary=10, head_size=2)


def case(model=TINY, gpus=4, rows=100, **rank):
    settings = {"method": "seal", "lora_r": 1, "per_device_train_batch_size": 2, **rank}
    config = build_config({"model_name_or_path": "-", "dtype": "bfloat16", "max_length": 8, "rank": settings})
    return Case(model, config, Amounts(rows, 8, 50), GPUS["H100"], gpus)


def test_the_tables_of_the_page_agree_with_the_code():
    page = plan.PAGE.read_text(encoding="utf-8")
    assert plan.fill(page) == page, "run `python benchmarks/cost/plan.py --write`"
    assert all(page.count(f"<!-- {name} -->") == 1 for name in plan.tables())
    assert all(table in page for table in plan.tables().values())


def test_the_formulas_agree_with_what_was_counted():
    report = json.loads((plan.RESULTS / "plan.json").read_text(encoding="utf-8"))
    for name, found in report["counted"].items():
        flops, held = plan.COUNTED[name].predicted()
        assert flops == pytest.approx(found["operations_per_token"], rel=0.02), name
        assert found["bytes"] * 0.99 < held < found["bytes"] * 1.25, name
    assert case().cost.host_bytes == pytest.approx(report["bytes_a_row"], rel=0.1)


def test_real_and_fake_tensors_give_the_same_count():
    tiny = plan.Counted("tiny", ModelDimensions(2, 64, 192, 4, 2, 128, 16), 2, 32, plan.CHECKPOINTING)
    real, fake = (count(tiny.model, tiny.config(), fake=fake)[0] for fake in (False, True))
    assert real == fake
    assert tiny.predicted()[0] == pytest.approx(real, rel=0.05)
    assert torch.get_default_dtype() == torch.float32


def test_memory_and_network_of_each_strategy_worked_out_by_hand():
    one, layer = case(algorithm=1), 2 * 144  # bytes per layer
    replicated, sharded = one.memory(Strategy("multi_gpu", 4)), one.memory(Strategy("fsdp2", 4))
    assert replicated == one.memory(Strategy("zero2", 4)) == one.memory(Strategy())
    assert replicated - sharded == 10 * layer * 3 / 4 - 2 * layer  # a quarter of the layers, and two full ones
    assert sharded == one.memory(Strategy("zero3", 4))
    # Three passes over batches of 2 x 4 rows: 8 bytes per loss; two players with 10 x (8 + 6) weights in float32.
    ring = 2 * 3 / 4
    assert one.network(Strategy("multi_gpu", 4)) == (ring * 3 * 8 * 8, ring * 2 * 140 * 4, 0)
    assert one.network(Strategy("fsdp2", 4)).weights == 3 * 2 * 10 * layer * 3 / 4
    assert one.network(Strategy()) == (0, 0, 0)


def test_host_memory_and_scratch_files_per_row():
    assert case(rows=1).host_bytes() == 8 + 28 + 40
    assert case(rows=1, selector_update="adam").host_bytes() == 8 + 28 + 16 + 40
    assert case(rows=1, method="probe").host_bytes() == 40 + 180
    assert case(rows=1, method="loss").host_bytes() == 40
    assert case(rows=1, gpus=1, method="probe").scratch_bytes() == 2 * 4 * 4
    assert case(rows=1).scratch_bytes() == 0


def test_only_strategies_that_can_run_are_listed():
    assert [name for name, _, _ in case(use_peft=False).strategies()] == ["single_gpu", "multi_gpu", "zero2"]
    four_bit = case().with_config(load_in_4bit=True)
    assert [name for name, _, _ in four_bit.strategies()] == ["single_gpu", "multi_gpu", "zero2"]
    assert len(list(case().strategies())) == 6


def test_the_first_sufficient_remedy_is_named():
    assert limits(plan.case("8B")) == []
    (memory,) = limits(plan.case("70B"))
    assert "158 GB on one GPU of 80 GB" in memory.what
    assert memory.knob.startswith("fsdp2 on 8 GPUs (42 GB each)")
    assert memory.knob.endswith("load_in_4bit=true (57.6 GB)")
    (memory,) = limits(plan.case("8B", gradient_checkpointing=False, per_device_train_batch_size=8))
    assert "rank.gradient_checkpointing=true (" in memory.knob
    (memory,) = limits(plan.case("70B", gpus=2, per_device_train_batch_size=512))
    assert memory.knob.startswith("rank.per_device_train_batch_size=1 and more accumulation, load_in_4bit=true (")
    memory, *_ = limits(case(ModelDimensions(100, 16_384, 65_536, 128, 8, 128_000, 128), gpus=2))
    assert memory.knob == "a lower max_length, more GPUs, or a smaller ranking model"


def test_the_memory_of_all_processes_of_a_machine_is_a_limit():
    assert any("memory in each of 8 processes" in limit.what for limit in limits(plan.case("8B", rows=10**9)))
    assert not any("processes" in limit.what for limit in limits(plan.case("8B", rows=10**8)))


def test_the_network_is_named_if_it_is_slower_than_computing():
    limited = [limit.what for limit in limits(plan.case("70B", gpus=64))]
    assert any(what.startswith("gathering the weights takes 2.") for what in limited)
    assert not any("gathering" in limit.what for limit in limits(plan.case("70B", gpus=8)))


def test_work_and_memory_grow_with_the_rows():
    few, many = case(rows=100), case(rows=1000)
    assert many.gpu_hours() == pytest.approx(10 * few.gpu_hours())
    assert many.memory(Strategy()) == few.memory(Strategy()) == rank_bytes(TINY, few.config, few.cost)
    assert many.host_bytes() == 10 * few.host_bytes() == 76_000


def test_sizes_are_printed_with_units():
    counts = (0, 999, 1000, 65.6e9, 6.56e12, 1.2e16)
    assert [size(count) for count in counts] == ["0 B", "999 B", "1 kB", "65.6 GB", "6.56 TB", "12,000 TB"]
