"""Several judges of one run: requirements are checked before, errors reported after."""

import importlib
import io
import sys
from contextlib import contextmanager

import pytest

from helpers.judge_server import Bad, question_of, serving, signed
from sealtune.core.config import EvaluateConfig
from sealtune.core.config_io import build_config
from sealtune.core.errors import UserError
from sealtune.core.types import Response, Verdict
from sealtune.evaluation import judges
from sealtune.evaluation.judging import check, describe_errors, identities, judge_all, tabulate


@contextmanager
def quiet(title):
    yield lambda *_, **__: None


def settings(*judges, **others):
    values = {"model_name_or_path": "m", "evaluate": {"judges": list(judges), **others}}
    return build_config(values).evaluate


def answers(n=4):
    return [
        Response(f"{kind}-{i}", model, f"set{i % 2}", kind, f"request {i}", f"{model} {kind} {i}", 3, True)
        for kind in ("harmful", "harmless")
        for model in ("base", "tuned")
        for i in range(n)
    ]


@pytest.mark.parametrize(
    "judges, message",
    [
        (["refusl"], "did you mean 'refusal'"),
        (["harmfulness"], "asks a model.*base_url"),
        ([{"name": "guard", "base_url": "http://a/v1"}], "asks a model"),
        ([{"name": "harmfulness", "model": "m", "format": "wildguard"}], "no format 'wildguard'; this judge has none"),
        ([{"name": "guard", "base_url": "http://a/v1", "model": "m", "api_key_env": "NOT_SET"}], "NOT_SET is not set"),
        (["refusal", "refusal"], "listed twice"),
    ],
)
def test_missing_requirements_are_reported_before_anything_is_asked(judges, message):
    with pytest.raises(UserError, match=message):
        check(settings(*judges))


def test_a_model_judge_without_a_model_has_no_identity():
    with pytest.raises(UserError, match="asks a model"):
        identities(settings("strongreject"))


def test_pairwise_needs_the_base_model():
    with pytest.raises(UserError, match=r"evaluate\.base=true"):
        check(settings({"name": "pairwise", "model": "m"}, base=False))


def test_every_judge_has_its_rows_and_errors_are_counted_separately():
    def reply(body):
        text = question_of(body)
        if "tuned harmful 1" in text:
            return "Hm."
        if "tuned harmful 2" in text:
            raise Bad(400, b"{}")
        if "tuned harmful 3" in text:
            return "I'm sorry, but I can't assist with that."
        tuned = "tuned" in text
        return signed(body, policy="malware" if tuned else "none", rating=5 if tuned else 2)

    with serving(reply) as server:
        config = settings("refusal", {"name": "harmfulness", "base_url": server.url, "model": "m"})
        verdicts = judge_all(answers(), config, {}, quiet)
    assert len(verdicts) == 32
    rows = {
        (r["model"], r["kind"], r["measure"]): r
        for r in tabulate(verdicts)
        if r["set"] == "all" and r["judge"] == "harmfulness"
    }
    rating = rows["tuned", "harmful", "harm_rating"]
    assert (rating["value"], rating["n"]) == (5.0, 1)
    assert [rating[error] for error in ("unparsed", "declined", "failed")] == [1, 1, 1]
    assert rows["tuned", "harmful", "failed"]["value"] == 0.25 and rows["tuned", "harmful", "failed"]["n"] == 4
    assert rows["base", "harmful", "harm_rating"]["value"] == 2.0 and rows["base", "harmful", "harmful"]["value"] == 0
    assert ("base", "harmful", "failed") not in rows
    first, again = describe_errors(verdicts)
    assert "3 of 16 answers have no verdict" in first and "1 failed" in first and "HTTP 400" in first
    assert "--force" in again


def test_strongreject_judges_only_harmful_prompts():
    with serving(lambda body: signed(body, refused=0, convincing=4, specific=2)) as server:
        config = settings({"name": "strongreject", "base_url": server.url, "model": "m"})
        verdicts = judge_all(answers(), config, {}, quiet)
    assert {v.kind for v in verdicts} == {"harmful"} and {v.score for v in verdicts} == {0.5}


def test_both_models_have_a_win_rate():
    def reply(body):
        text = question_of(body)
        tuned_first = text.index("tuned harm") < text.index("base harm")
        return signed(body, better="first" if tuned_first else "second")

    with serving(reply) as server:
        config = settings({"name": "pairwise", "base_url": server.url, "model": "m"})
        cache = {}
        verdicts = judge_all(answers(), config, cache, quiet)
        assert len(server.bodies) == len(cache) == 16  # 8 pairs in both orders
    rates = {(r["model"], r["kind"]): r["value"] for r in tabulate(verdicts) if r["set"] == "all"}
    assert rates["tuned", "harmful"] == rates["tuned", "harmless"] == 1 and rates["base", "harmful"] == 0


def test_the_cache_is_shared_by_runs_but_not_by_judges():
    def reply(body):
        if "convincing" in question_of(body):
            return signed(body, refused=1, convincing=1, specific=1)
        return signed(body, policy="none", rating=1)

    cache = {}
    with serving(reply) as server:
        where = {"base_url": server.url, "model": "m"}
        config = settings({"name": "harmfulness", **where}, {"name": "strongreject", **where})
        first = judge_all(answers(), config, cache, quiet)
        assert len(server.bodies) == 16 + 8
    assert judge_all(answers(), config, cache, quiet) == first


def test_timeouts_retries_and_concurrency_do_not_change_the_identity():
    spec = {"name": "harmfulness", "base_url": "http://a/v1", "model": "m"}
    slow = settings(spec | {"timeout": 1, "max_retries": 9, "max_concurrency": 1, "api_key_env": "KEY"})
    assert identities(settings(spec)) == identities(slow)
    assert identities(settings(spec)) != identities(settings(spec | {"revision": "r"}))
    assert identities(EvaluateConfig()) == [{"name": "refusal"}]


def verdict(set_name, kind, flagged, model="base"):
    return Verdict("x", model, set_name, kind, "refusal", "refusal" if flagged else "compliance", flagged)


def test_the_table_has_a_row_per_prompt_set_and_one_over_all():
    verdicts = [verdict("a", "harmful", i < 3) for i in range(4)] + [verdict("b", "harmful", False)]
    verdicts += [verdict("c", "harmless", i < 1) for i in range(5)] + [verdict("a", "harmful", True, "tuned")]
    rows = {(r["model"], r["kind"], r["set"]): r for r in tabulate(verdicts)}
    assert len(rows) == 7
    row = rows["base", "harmful", "a"]
    assert (row["measure"], row["title"]) == ("attack_success_rate", "attack success rate (compliance)")
    assert (row["value"], rows["base", "harmful", "all"]["value"]) == (0.25, 0.4)
    assert rows["base", "harmless", "all"]["measure"] == "over_refusal"
    assert (rows["base", "harmless", "all"]["value"], rows["tuned", "harmful", "all"]["n"]) == (0.2, 1)
    assert list(row) == [
        *("model", "set", "kind", "judge", "measure", "title", "unit", "value", "low", "high", "n"),
        *("unparsed", "declined", "failed"),
    ]
    assert tabulate([]) == []


POLITENESS = """
from sealtune.core.types import Verdict
from sealtune.evaluation.judge_protocol import Judge, Measure

MEASURES = {"politeness": Measure("score", "rating", "politeness, 0 to 10", high=10)}


def judge(responses, config, ask):
    return [Verdict(r.id, r.model, r.set, r.kind, "politeness", "polite", False, 7.0) for r in responses]


JUDGE = Judge(judge, MEASURES)
"""


def test_a_new_judge_needs_one_file_and_nothing_else(tmp_path, monkeypatch):
    from rich.console import Console

    from sealtune.evaluation.comparison import MethodResult, markdown, table
    from sealtune.report.summary import short_table

    (tmp_path / "politeness.py").write_text(POLITENESS)
    monkeypatch.setattr(judges, "__path__", [*judges.__path__, str(tmp_path)])
    importlib.invalidate_caches()
    try:
        verdicts = judge_all(answers(), settings("politeness"), {}, quiet)
        rows = tabulate(verdicts)
        assert {(r["title"], r["unit"], r["value"]) for r in rows} == {("politeness, 0 to 10", "rating", 7.0)}

        results = {"rows": {"ranked": 1}, "ranking": None, "evaluation": rows, "cost": {}}
        console = Console(width=120, record=True, file=io.StringIO())
        console.print(short_table(results | {"uncertainty": {"estimated_unsafe": None, "borderline_rows": None}}))
        assert "7.00 (7.00 to 7.00)" in console.export_text()

        base = [row for row in rows if row["model"] == "base"]
        compared = table([MethodResult("base", 0, base, [], verdicts, {})], [], "base")
        content = {"model": "m", "seeds": [0], "reference": "base", "methods": ["base"], "failed": [], "selection": []}
        assert "politeness, 0 to 10, harmful prompts, politeness (n = 4)" in markdown(content | {"table": compared})
    finally:
        sys.modules.pop("sealtune.evaluation.judges.politeness", None)


@pytest.mark.parametrize(
    "key, value",
    [
        ("api_key_env", "sk-secret"),
        ("api_key_env", "hf_secret"),
        ("base_url", "http://user:secret@host/v1"),
        ("base_url", "http://host/v1?key=secret"),
        ("base_url", "secret"),
        ("base_url", "file:///secret"),
    ],
)
def test_a_secret_in_the_wrong_place_is_refused_and_not_shown(key, value):
    with pytest.raises(UserError) as error:
        settings({"name": "harmfulness", "model": "m", key: value})
    assert f"judges.0.{key}" in str(error.value) and "secret" not in str(error.value)


def test_the_error_for_an_unknown_key_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'base_url'"):
        settings({"name": "harmfulness", "bas_url": "http://a/v1"})


def test_a_bare_name_equals_a_mapping_with_a_name():
    assert settings("refusal") == settings({"name": "refusal"}) == EvaluateConfig()
    config = settings({"name": "guard", "model": "m", "base_url": "http://127.0.0.1:1/v1", "format": "shieldgemma"})
    assert EvaluateConfig.model_validate(config.model_dump(mode="json")) == config


def test_a_local_model_judges_and_its_replies_are_cached(tiny_folder, monkeypatch):
    from sealtune.evaluation import local

    config = settings({"name": "harmfulness", "model": str(tiny_folder), "max_tokens": 4, "max_concurrency": 3})
    few = answers(2)
    long = Response("long", "base", "set0", "harmful", "p", "word " * 9000, 3, True)
    cache = {}
    verdicts = judge_all([*few, long], config, cache, quiet)
    assert {v.label for v in verdicts[:-1]} == {"failed"}  # the prompt exceeds the context of the tiny model
    assert "more than the model's context" in verdicts[-1].error and not cache

    guard = settings({"name": "guard", "model": str(tiny_folder), "max_tokens": 4, "max_concurrency": 3})
    verdicts = judge_all([*few, long], guard, cache, quiet)
    assert {v.label for v in verdicts[:-1]} == {"unparsed"} and verdicts[-1].label == "failed"
    assert len(cache) == len(few)
    assert all(len(record["revision"]) == 16 for record in cache.values())
    monkeypatch.setattr(local, "load_model", None)
    assert judge_all(few, guard, cache, quiet) == verdicts[:-1]
