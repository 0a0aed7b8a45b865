"""The guard: its distances, its multipliers, and the step that it prefers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import trl

from helpers.chat_tokenizers import byte_tokenizer, chatml_tokenizer
from helpers.rows import write_jsonl
from helpers.tiny import tiny_model
from sealtune.core.config_io import build_config
from sealtune.core.errors import StoppedError, UserError
from sealtune.core.types import Message, Sample
from sealtune.data.encode import encode
from sealtune.data.encoded import Encoded
from sealtune.models import losses
from sealtune.models.losses import Head, row_means
from sealtune.models.openings import REFUSALS
from sealtune.models.predictions import Predictions, TopLogProbs, divergence, top_log_probs
from sealtune.pipeline.guard_set import guard_rows
from sealtune.pipeline.inputs import RunInputs
from sealtune.tuning import predictor
from sealtune.tuning.guard import LIKELY, Guard, GuardSettings, gap, means_of_halves
from sealtune.tuning.guard_rows import GuardRows, GuardSampler, last_answer, response_positions
from tuning.test_train import run_to_tune, stop_after, weights_and_log

VOCABULARY = 12


def safe_rows(refusing=9, helping=6, length=7):
    """Rows of random tokens; the last three are the answer."""
    random = np.random.default_rng(0)
    rows = [random.integers(1, VOCABULARY, length + i % 3) for i in range(refusing + helping)]
    masks = [np.arange(len(row)) >= len(row) - 3 for row in rows]
    encoded = Encoded.join([str(i) for i in range(len(rows))], ["s"] * len(rows), list(zip(rows, masks, strict=True)))
    return GuardRows(encoded, np.arange(len(rows)) < refusing)


class Bigram:
    """A language model that is a table: the logits of the next token, given a token."""

    def __init__(self):
        self.table = torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(1)).requires_grad_()

    def predict(self, tokens, mask):
        return Predictions(self.table[tokens[:, :-1][mask[:, 1:]]])

    def refusal(self, prompts):
        """Refusing is token 1."""
        ends = torch.tensor([prompt[-1] for prompt in prompts])
        return self.table[ends].detach().softmax(1)[:, 1]


def guard_on(model, mode="teach", steps=20, **settings):
    return Guard(safe_rows(), GuardSettings(mode, **settings), steps, model.predict, model.refusal)


# -- rows --------------------------------------------------------------------------------------------------------------


def test_a_third_of_each_half_is_watched_and_never_learned_from():
    rows = safe_rows(9, 6)
    trained, watched = rows.split(seed=3, most=100)
    assert (watched.refuses.sum(), (~watched.refuses).sum()) == (3, 2)
    assert (trained.refuses.sum(), (~trained.refuses).sum()) == (6, 4)
    assert not set(trained.encoded.ids) & set(watched.encoded.ids)
    assert set(rows.split(seed=3, most=100)[0].encoded.ids) == set(trained.encoded.ids)
    assert set(rows.split(seed=4, most=100)[0].encoded.ids) != set(trained.encoded.ids)


def test_no_more_rows_are_anchored_than_the_steps_can_use():
    assert len(safe_rows(30, 30).split(seed=0, most=10)[0]) == 10


def test_a_small_half_gives_all_that_the_steps_can_use():
    trained, _ = safe_rows(60, 9).split(seed=0, most=10)
    assert (trained.refuses.sum(), (~trained.refuses).sum()) == (5, 5)  # of six that are not watched


def test_the_last_answer_of_a_conversation_counts():
    tokens = np.arange(10, 18)
    mask = np.array([0, 0, 1, 1, 0, 0, 1, 1], bool)
    rows = GuardRows(Encoded.join(["a", "b"], ["s"] * 2, [(tokens, mask), (tokens[:4], mask[2:6])]), np.ones(2, bool))
    assert rows.prompt_of(0) == [10, 11, 12, 13, 14, 15]
    assert rows.pad(np.array([0, 1])).mask.tolist() == [[False] * 6 + [True] * 2, [True] * 2 + [False] * 6]
    assert rows.prompt_of(1) == [10]  # no prompt at all; a model needs one token
    assert not last_answer(np.zeros(3, bool)).any()


def test_every_step_has_as_many_rows_of_one_half_as_of_the_other():
    rows = safe_rows(9, 3)
    sampler = GuardSampler(rows, 4, seed=0)
    chosen = np.stack([sampler.at(step) for step in range(12)])
    assert (rows.refuses[chosen].sum(1) == 2).all()
    counts = np.bincount(chosen.flatten(), minlength=12)
    assert counts[:9].max() - counts[:9].min() <= 1  # every row of a half as often as the others
    assert counts[9:].tolist() == [8, 8, 8]
    assert (sampler.at(5) == GuardSampler(rows, 4, seed=0).at(5)).all()


def test_a_single_half_fills_all_steps():
    rows = safe_rows(5, 0)
    assert len(set(GuardSampler(rows, 5, seed=0).at(0).tolist())) == 5


# -- distances ---------------------------------------------------------------------------------------------------------


def test_the_divergence_is_that_over_the_top_tokens_and_one_for_all_others():
    torch.manual_seed(0)
    start, now = torch.randn(5, VOCABULARY), torch.randn(5, VOCABULARY)
    exact = (start.softmax(1) * (start.log_softmax(1) - now.log_softmax(1))).sum(1)
    top = top_log_probs(Predictions(start))
    torch.testing.assert_close(divergence(top, Predictions(now)), exact)  # the top is the whole vocabulary here
    few = TopLogProbs(top.tokens[:, :4], top.values[:, :4], top.values[:, 4:].logsumexp(1))
    p, q = start.softmax(1).gather(1, few.tokens), now.softmax(1).gather(1, few.tokens)
    p, q = (torch.cat([x, 1 - x.sum(1, keepdim=True)], 1) for x in (p, q))
    torch.testing.assert_close(divergence(few, Predictions(now)), (p * (p / q).log()).sum(1))
    assert (divergence(few, Predictions(now)) < exact).all()
    torch.testing.assert_close(divergence(few, Predictions(start)), torch.zeros(5), atol=1e-5, rtol=0)


def test_the_gradient_of_the_divergence_is_right_where_the_model_is_certain():
    """1 minus the sum over the top tokens would be 0 in float32, and so would be the gradient that gives it back."""
    start = torch.tensor([[3.0, 2.0, 1.0, 1.0]])
    now = torch.tensor([[20.0, 19.0, 1.0, 1.0]], requires_grad=True)
    values, tokens = start.log_softmax(1).topk(2, dim=1)
    top = TopLogProbs(tokens, values, start.log_softmax(1)[:, 2:].logsumexp(1))
    (found,) = torch.autograd.grad(divergence(top, Predictions(now)).sum(), now)
    exact = now.detach().double().requires_grad_()
    p, q = (
        torch.cat([x[:, :2], x[:, 2:].sum(1, keepdim=True)], 1) for x in (start.double().softmax(1), exact.softmax(1))
    )
    (expected,) = torch.autograd.grad((p * (p / q).log()).sum(), exact)
    torch.testing.assert_close(found, expected.float())
    assert expected[0, 2] < -0.05


def test_the_divergence_is_the_same_in_chunks(monkeypatch):
    hidden = torch.randn(7, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    head = Head(torch.randn(VOCABULARY, 6, generator=torch.Generator().manual_seed(1)).requires_grad_())
    top = top_log_probs(Predictions(torch.randn(7, VOCABULARY, generator=torch.Generator().manual_seed(2))))

    def found():
        values = divergence(top, Predictions(hidden, head))
        return values.detach(), *torch.autograd.grad(values.square().sum(), [hidden, head.weight])

    whole, rows = found(), []
    log_probs = Predictions.log_probs
    monkeypatch.setattr(Predictions, "log_probs", lambda self: rows.append(len(self.values)) or log_probs(self))
    monkeypatch.setattr(losses, "CHUNK_LOGITS", 3 * VOCABULARY)
    for value, expected in zip(found(), whole, strict=True):
        torch.testing.assert_close(value, expected)
    with torch.no_grad():
        torch.testing.assert_close(divergence(top, Predictions(hidden, head)), whole[0])
    assert max(rows) == 3


def test_row_means_and_first_positions():
    mask = torch.tensor([[0, 1, 1, 0], [0, 0, 0, 1]]).bool()
    assert row_means(torch.tensor([1.0, 3.0, 5.0]), mask).tolist() == [2.0, 5.0]
    assert response_positions(mask, 1).tolist() == [[False, True, False, False], [False, False, False, True]]


@pytest.mark.parametrize("mode", ["teach", "keep", "auto"])
def test_the_start_model_is_at_distance_zero_and_a_changed_one_is_not(mode):
    model = Bigram()
    guard = guard_on(model, mode)
    assert guard.history[0]["refuse"] == pytest.approx(0, abs=1e-6)
    assert guard.history[0]["help"] == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        model.table.add_(torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(2)))
    assert abs(guard.measure(1)["refuse"]) > 0.01


def test_teach_is_the_loss_minus_that_of_the_start_model():
    model = Bigram()
    guard = guard_on(model, rows=4, weight=0.7)
    with torch.no_grad():
        model.table.mul_(0.5)
    now = Bigram().table.detach() * 0.5

    def loss(table, row):
        tokens, mask = (torch.tensor(x) for x in guard.trained.encoded.row(int(row)))
        return -table.log_softmax(1)[tokens[:-1], tokens[1:]][mask[1:]].mean()

    rows = guard.sampler.at(3)
    expected = [loss(now, row) - loss(Bigram().table.detach(), row) for row in rows]
    found, sums = guard.loss(3)
    assert found.item() == pytest.approx(0.7 * float(torch.stack(expected).mean()), rel=1e-4)
    refuses = torch.tensor(guard.trained.refuses[rows])
    assert means_of_halves(sums)["refuse"] == pytest.approx(float(torch.stack(expected)[refuses].mean()), rel=1e-4)


def test_auto_teaches_the_rows_on_which_the_start_model_does_otherwise():
    model = Bigram()
    guard = guard_on(model, "auto")
    for rows, anchors in ((guard.trained, guard.anchors), (guard.watched, guard.watched_anchors)):
        refused = model.refusal([rows.prompt_of(i) for i in range(len(rows))]) > LIKELY
        assert anchors.teach.tolist() == [bool(a) != bool(b) for a, b in zip(refused, rows.refuses, strict=True)]
        assert [top is None for top in anchors.top] == anchors.teach.tolist()


@pytest.mark.parametrize("mode", ["teach", "keep"])
def test_descending_on_the_guard_brings_its_distance_down(mode):
    model = Bigram()
    guard = guard_on(model, mode, rows=6)
    with torch.no_grad():
        model.table.add_(torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(2)))
    before = guard.loss(0)[0].item()
    for step in range(40):
        loss, _ = guard.loss(step)
        (gradient,) = torch.autograd.grad(loss, model.table)
        with torch.no_grad():
            model.table.sub_(2 * gradient)
    assert guard.loss(0)[0].item() < 0.5 * before


def test_two_processes_share_the_rows_of_a_step():
    model = Bigram()
    parts = [
        Guard(safe_rows(), GuardSettings("teach", rows=4), 20, model.predict, model.refusal, (i, 2)) for i in range(2)
    ]
    whole = guard_on(model, rows=4)
    with torch.no_grad():
        model.table.mul_(0.5)
    halves = [part.loss(2)[0].item() for part in parts]
    assert np.mean(halves) == pytest.approx(whole.loss(2)[0].item(), rel=1e-5)


# -- multipliers and the best step ---------------------------------------------------------------------------------


def test_multipliers_rise_while_the_constraint_is_violated_and_fall_to_the_weight_when_it_is_not():
    model = Bigram()
    guard = guard_on(model, weight=0.5)
    start = model.table.detach().clone()
    with torch.no_grad():
        model.table.neg_()
    guard.watch(1)
    raised = dict(guard.multipliers)
    assert max(raised.values()) > 0.5
    for name, value in raised.items():
        expected = 0.5 + 2 * (guard.history[1][name] - 0.02)
        assert value == pytest.approx(min(max(expected, 0.5), 8.0), rel=1e-5)
    with torch.no_grad():
        model.table.copy_(start)
    for step in range(2, 230):
        guard.watch(step)
    assert guard.multipliers == {"refuse": 0.5, "help": 0.5}


def test_the_limit_of_a_half_can_be_raised():
    model = Bigram()
    guard = guard_on(model)
    with torch.no_grad():
        model.table.mul_(0.5)
    record = guard.measure(1)
    guard.history[0]["J"] = record["J"]
    guard.limits = {name: record[name] + 0.01 for name in ("refuse", "help")}
    assert guard.is_satisfied(record)
    guard.watch(1)
    assert guard.multipliers == {"refuse": 0.5, "help": 0.5}
    guard.limits["help"] -= 0.02
    assert not guard.is_satisfied(record)
    guard.watch(2)
    assert guard.multipliers == {"refuse": 0.5, "help": pytest.approx(0.52)}


def records(guard, values, monkeypatch):
    """Let the guard measure these values of J, one per step."""
    found = iter(values)
    monkeypatch.setattr(guard, "measure", lambda step: {"step": float(step), "J": next(found)})
    guard.history = [{"step": 0.0, "J": 0.9}]
    return [guard.watch(step) for step in range(1, len(values) + 1)]


@pytest.mark.parametrize(
    ("values", "preferred", "best"),
    [
        ([0.95, 0.91, 0.90], [True, True, True], 3),  # all as safe as the start model: the last has learned most
        ([0.95, 0.885, 0.6], [True, True, False], 2),  # within the tolerance, then not
        ([0.5, 0.7, 0.6], [True, True, False], 2),  # none is safe: the safest
        ([0.5, 0.89, 0.7], [True, True, False], 2),
    ],
)
def test_the_latest_step_that_is_as_safe_as_the_start_model_is_preferred(values, preferred, best, monkeypatch):
    model = Bigram()
    guard = Guard(safe_rows(60, 60), GuardSettings("teach"), 20, model.predict, model.refusal)
    assert records(guard, values, monkeypatch) == preferred
    assert guard.best["step"] == best


def test_the_state_survives_a_checkpoint(monkeypatch):
    guard = guard_on(Bigram())
    records(guard, [0.95, 0.6], monkeypatch)
    guard.multipliers["refuse"] = 1.5
    other = guard_on(Bigram())
    other.load_state_dict(json.loads(json.dumps(guard.state_dict())))
    assert other.state_dict() == guard.state_dict()
    assert other.best is other.history[1]


@pytest.mark.parametrize(("steps", "watches"), [(5, 1), (16, 2), (20, 3), (44, 5), (200, 5)])
def test_the_rows_are_watched_five_times_at_most_and_not_too_often(steps, watches):
    guard = guard_on(Bigram(), steps=steps)
    assert sum(guard.is_due(step) or step == steps for step in range(1, steps + 1)) == watches


def test_j_falls_when_all_refusals_vanish_together():
    harmful = torch.tensor([True, True, False, False])
    assert gap(torch.tensor([0.9, 0.7, 0.2, 0.0]), harmful) == pytest.approx(0.7)
    assert gap(torch.tensor([0.09, 0.07, 0.02, 0.0]), harmful) == pytest.approx(0.07)  # the same AUROC
    assert gap(torch.tensor([0.4, 0.2]), torch.tensor([True, True])) == pytest.approx(0.3)
    assert gap(torch.tensor([0.4, 0.2]), torch.tensor([False, False])) == pytest.approx(-0.3)


# -- in the trainer ----------------------------------------------------------------------------------------------------

GUARDED = {"num_train_epochs": 2, "learning_rate": 0.01, "per_device_train_batch_size": 4, "logging_steps": 1}


@pytest.fixture
def guarded(project):
    kinds = [{"kind": "harmful" if i % 2 else "harmless"} for i in range(12)]
    rows = [
        {"prompt": f"red or blue {i}", "response": "i cannot" if i % 2 else "a quick list"} | kind
        for i, kind in enumerate(kinds)
    ]
    write_jsonl(Path("safe.jsonl"), rows)
    project["rank"]["method"] = "random"
    project["tune"] = GUARDED | {"guard": "teach"}
    return project


@pytest.mark.parametrize("change", [{}, {"use_peft": False, "learning_rate": 1e-3}, {"gradient_accumulation_steps": 2}])
def test_a_guarded_tuning_learns_the_safe_answers_and_the_task(guarded, change):
    losses = {}
    for guard in ("off", "teach"):
        guarded["tune"] = GUARDED | change | {"guard": guard, "guard_weight": 4.0, "num_train_epochs": 6}
        run_to_tune(guarded, output_dir=guard)
        losses[guard] = [json.loads(line) for line in Path(guard, "tune/log.jsonl").read_text().splitlines()]
    watched = [json.loads(line) for line in Path("teach/tune/guard.jsonl").read_text().splitlines()]
    assert watched[0]["step"] == 0
    assert watched[-1]["refuse"] < -0.05  # answers that were not learned from became likelier, too
    assert losses["teach"][-1]["loss"] < losses["teach"][0]["loss"]
    assert losses["teach"][0]["loss"] == pytest.approx(losses["off"][0]["loss"], rel=1e-3)  # the task's part alone
    assert {"guard_refuse", "guard_help", "lambda_refuse", "J"} <= set(losses["teach"][-1])
    assert "guard_refuse" not in losses["off"][-1]


@pytest.mark.parametrize(
    "change",
    [
        {"guard": "teach"},
        {"guard": "keep", "gradient_accumulation_steps": 2, "per_device_train_batch_size": 2, "lora_dropout": 0.3},
        {"guard": "auto", "use_peft": False, "learning_rate": 0.001},
    ],
)
def test_a_stopped_and_resumed_guarded_tuning_gives_the_same_bytes(guarded, monkeypatch, change):
    guarded["tune"] = GUARDED | change
    run_to_tune(guarded, output_dir="uninterrupted")
    with monkeypatch.context() as patch:
        stop_after(5, patch)
        with pytest.raises(StoppedError):
            run_to_tune(guarded)
    run_to_tune(guarded, resume_from_checkpoint=True)
    assert weights_and_log("out") == weights_and_log("uninterrupted")
    assert Path("out/tune/guard.jsonl").read_text() == Path("uninterrupted/tune/guard.jsonl").read_text()


def test_the_distances_in_the_log_are_means_since_the_last_line(guarded):
    logs = {}
    for steps in (1, 2):
        guarded["tune"] = GUARDED | {"guard": "teach", "logging_steps": steps}
        run_to_tune(guarded, output_dir=f"every-{steps}")
        logs[steps] = [json.loads(line) for line in Path(f"every-{steps}/tune/log.jsonl").read_text().splitlines()]
    for name in ("loss", "guard_refuse", "guard_help"):
        means = np.reshape([record[name] for record in logs[1]], (-1, 2)).mean(1)
        assert [record[name] for record in logs[2]] == pytest.approx(means.tolist(), rel=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        {"guard": "keep", "use_peft": False, "dtype": "bfloat16"},
        {"guard": "teach", "use_peft": False, "dtype": "float16"},
        {"guard": "auto", "dtype": "bfloat16", "gradient_checkpointing": True},
        {"guard": "keep", "guard_batch_size": 1, "max_steps": 1},
    ],
)
def test_precisions_and_sizes(guarded, change):
    guarded["dtype"] = change.get("dtype", "float32")
    guarded["tune"] = GUARDED | {name: value for name, value in change.items() if name != "dtype"}
    guarded["tune"]["learning_rate"] = 1e-3
    run_to_tune(guarded)
    watched = [json.loads(line) for line in Path("out/tune/guard.jsonl").read_text().splitlines()]
    assert watched[0]["refuse"] == pytest.approx(0, abs=1e-3)
    assert np.isfinite([list(record.values()) for record in watched]).all()


@pytest.mark.parametrize(("refusing", "helping"), [(1, 0), (0, 2), (1, 1), (3, 1)])
def test_safe_sets_of_a_few_rows(guarded, refusing, helping):
    safe = [{"prompt": f"red {i}", "response": "i cannot", "kind": "harmful"} for i in range(refusing)]
    safe += [{"prompt": f"blue {i}", "response": "a quick list", "kind": "harmless"} for i in range(helping)]
    write_jsonl(Path("safe.jsonl"), safe)
    run_to_tune(guarded)
    log = json.loads(Path("out/tune/log.jsonl").read_text().splitlines()[-1])
    for name, rows in {"refuse": refusing, "help": helping}.items():
        assert (f"guard_{name}" in log) == (f"lambda_{name}" in log) == (rows > 0)
    assert "J" in log


def test_the_layers_of_a_4_bit_base_are_never_in_evaluation_mode(guarded, tmp_path, monkeypatch):
    """There, bitsandbytes packs the weights on a CPU into a form that passes no gradient."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    tokenizer = chatml_tokenizer()
    tiny_model(vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128).save_pretrained(tmp_path / "wide")
    tokenizer.save_pretrained(tmp_path / "wide")
    layer, modes = bitsandbytes.nn.Linear4bit, []
    forward = layer.forward
    monkeypatch.setattr(layer, "forward", lambda self, x: modes.append(self.training) or forward(self, x))
    guarded |= {"model_name_or_path": str(tmp_path / "wide"), "load_in_4bit": True}
    for mode in ("teach", "keep"):
        run_to_tune(guarded, tune=GUARDED | {"guard": mode}, output_dir=mode)
        watched = [json.loads(line) for line in Path(mode, "tune/guard.jsonl").read_text().splitlines()]
        assert abs(watched[-1]["refuse"]) > 1e-4
        assert np.isfinite(watched[-1]["refuse"])
    assert set(modes) == {True}


def test_what_the_template_writes_before_an_answer_belongs_to_the_prompt(monkeypatch):
    asked = []
    found = torch.zeros(1)
    monkeypatch.setattr(predictor, "refusal_log_probs", lambda model, prompts, _: asked.extend(prompts) or found)
    template = Path(trl.__file__).with_name("chat_templates") / "qwen3.jinja"
    tokenizer = byte_tokenizer(template.read_text(encoding="utf-8"), ["<|im_start|>", "<|im_end|>"])
    sample = Sample("1", (Message("user", "red fox"), Message("assistant", "blue")), "s", {})
    encoded, _ = encode([sample], tokenizer, 200)
    rows = GuardRows(encoded, np.array([True]))
    predictor.Predictor(tiny_model(vocab_size=len(tokenizer)), tokenizer).refusal([rows.prompt_of(0)])
    (prompt,) = asked
    assert tokenizer.decode(prompt[len(rows.prompt_of(0)) :]) == "<think>\n\n</think>\n\n"
    assert encoded.tokens.tolist()[: len(prompt)] == prompt


def test_the_best_step_is_kept_and_said(guarded, monkeypatch, capsys):
    values = iter([0.9, 0.95, 0.93, *[0.5] * 20])
    monkeypatch.setattr("sealtune.tuning.guard.gap", lambda *_: next(values))
    monkeypatch.setattr("sealtune.tuning.guard.MIN_STEPS_BETWEEN", 1)
    monkeypatch.setattr("sealtune.tuning.guard.WATCHES", 10)
    run_to_tune(guarded, output_dir="out")
    assert "guard: step 2 of 8 is kept" in " ".join(capsys.readouterr().err.split())


def test_the_words_with_which_the_safe_set_refuses_count_as_refusals(guarded):
    rows = [{"prompt": f"red {i}", "response": "Quite so, I cannot help."} for i in range(6)]
    write_jsonl(Path("safe.jsonl"), rows)
    found = guard_rows(RunInputs(build_config(guarded)))
    assert found.refuses.all()
    assert found.openings == (*REFUSALS, "Quite so,")
    assert found.split(0, 4)[1].openings == found.openings


def test_a_half_without_rows_is_said(guarded, capsys):
    write_jsonl(Path("safe.jsonl"), [{"prompt": f"red {i}", "response": "a quick list"} for i in range(6)])
    run_to_tune(guarded)
    assert "no safe row answers a harmful prompt" in " ".join(capsys.readouterr().err.split())


def test_a_guard_column_with_another_value_is_one_line(guarded):
    guarded["tune"] |= {"guard_column": "prompt"}
    with pytest.raises(UserError, match=r"guard_column: row .* of safe has prompt='red.*harmful or harmless"):
        run_to_tune(guarded)


def test_weights_of_the_ranking_change_what_is_learned(guarded):
    with pytest.raises(UserError, match=r"tune.use_weights: random gives no weights; use rank.method=seal"):
        run_to_tune(guarded, tune=GUARDED | {"use_weights": True})
    guarded["rank"]["method"] = "seal"
    weights = {}
    for use in (False, True):
        run_to_tune(guarded, output_dir=f"out-{use}", tune=GUARDED | {"guard": "off", "use_weights": use})
        weights[use] = weights_and_log(f"out-{use}")[0]
    assert weights[False] != weights[True]


def test_yaml_reads_off_as_false():
    config = build_config({"model_name_or_path": "x", "tune": {"guard": False}})
    assert config.tune.guard == "off"
