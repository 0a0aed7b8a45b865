"""Each fault of a safe set is found, and its mended twin is fine."""

from dataclasses import asdict

import pytest

from sealtune.core.types import Message, Sample
from sealtune.pipeline import safe_set_findings
from sealtune.pipeline.safe_set_findings import StartAnswers, examine, split

TOPICS = ["locks", "alarms", "wires", "pumps", "drones", "ladders", "trains", "boilers", "keys", "mirrors"]
REFUSALS = [
    "I'm sorry, but I can't help with that: it would harm people.",
    "No, I will not. That is against the law.",
    "I cannot help you to hurt others.",
    "That is something I won't do; please talk to somebody.",
]


def sample(prompt, response, source="made", **row):
    return Sample(prompt, (Message("user", prompt), Message("assistant", response)), source, row)


def refusing(n, answers=REFUSALS, **extra):
    prompts = [f"How do I break {TOPICS[i % 10]} number {i} and hurt the owner?" for i in range(n)]
    return [sample(prompt, answers[i % len(answers)], **extra) for i, prompt in enumerate(prompts)]


def helping(n, **extra):
    prompts = [f"How do I break in {TOPICS[i % 10]} number {i} and thank the owner?" for i in range(n)]
    return [sample(prompt, f"Gently: step {i} comes first.", **extra) for i, prompt in enumerate(prompts)]


def findings(rows, *args, **named):
    return {finding.name: finding for finding in examine(split(rows), *args, **named)}


def mixed(rows):
    return [sample(row.prompt, row.response, source) for row, source in zip(rows, ["a", "b"] * len(rows), strict=False)]


def test_a_good_safe_set_is_fine():
    found = findings(mixed(refusing(60) + helping(60)), candidates=[sample("Sing.", "La.")], asked=["Dance."])
    assert {finding.severity for finding in found.values()} == {"fine"}
    assert found["halves"].fact == "60 rows (50%) refuse, 60 rows (50%) help"


@pytest.mark.parametrize(
    ("rows", "missing"),
    [(helping(9), "harmful"), (refusing(9), "harmless"), (helping(70) + refusing(1), "harmful")],
)
def test_a_missing_half_is_a_warning(rows, missing):
    found = findings(rows)["halves"]
    assert found.severity == "warning" and f"add {missing} prompts" in found.advice


@pytest.mark.parametrize(
    ("rows", "small"), [(refusing(2) + helping(60), "harmful"), (refusing(60) + helping(2), "less")]
)
def test_a_small_half_is_named(rows, small):
    found = findings(rows)["halves"]
    assert found.severity == "advice" and small in found.advice


def test_few_rows_are_called_few():
    assert findings(refusing(20) + helping(20))["rows"].severity == "advice"


def test_a_half_from_one_source_is_named():
    found = findings(refusing(60, source="a") + mixed(helping(60)))["sources"]
    assert found.severity == "advice"
    assert found.fact == "the refusing half from 1 source, the helping half from 2 sources"


def test_rows_say_themselves_where_they_come_from_and_a_few_rows_are_no_source():
    rows = refusing(60) + helping(60)
    named = [Sample(f"{i}", r.messages, "file", {"source": "xy"[i % 2]}) for i, r in enumerate(rows)]
    assert findings(named)["sources"].severity == "fine"
    strays = [Sample(f"{i}", r.messages, "file", {"source": "y" if i == 0 else "x"}) for i, r in enumerate(rows)]
    assert "refusing half from 1 source" in findings(strays)["sources"].fact


def test_missing_twins_are_counted():
    far = [sample(f"Name {n} rivers, please.", "Rhine.") for n in range(60)]
    found = findings(refusing(60) + far)["twins"]
    assert found.severity == "advice" and found.fact == "0 of 60 refusing rows with a harmless twin"


def test_prompts_among_the_candidates_and_the_evaluation_are_found():
    rows = refusing(60) + helping(60)
    asked = [rows[0].prompt.upper(), rows[1].prompt.replace("hurt", "harm"), "Something else."]
    found = findings(rows, candidates=[sample(rows[5].prompt, "Like this.")], asked=iter(asked))
    assert found["candidates"].severity == "advice" and "1 exact" in found["candidates"].fact
    assert found["asked"].severity == "warning" and "1 exact" in found["asked"].fact


def test_a_few_nearly_shared_prompts_of_candidates_are_no_fault():
    prompts = [" ".join(f"{letter}{i}" for letter in "abcdefghijklmnop") for i in range(150)]
    near = [sample(f"{prompt} please", "So.") for prompt in prompts]
    for count, severity in ((1, "fine"), (2, "advice")):
        found = findings([sample(prompt, "La.") for prompt in prompts], candidates=near[:count])["candidates"]
        assert f"0 exact, {count} exact or near" in found.fact and found.severity == severity


def test_refusals_that_are_one_sentence_are_found():
    same = ["I\u2019m sorry, but I can't help.", "I'm sorry but I can't help!"]
    found = findings(refusing(60, same) + helping(60))["openings"]
    assert found.severity == "advice"
    assert found.fact == "commonest opening of the refusals: \"i'm sorry but i can't\", 100% of them; 1 opening"


@pytest.mark.parametrize(
    ("start", "severities"),
    [
        (StartAnswers(10, 9, 10, 1), ("fine", "fine")),
        (StartAnswers(10, 5, 10, 1), ("fine", "fine")),
        (StartAnswers(10, 1, 10, 5), ("advice", "advice")),
    ],
)
def test_the_start_models_answers_are_judged(start, severities):
    found = findings(refusing(60) + helping(60), start=start)
    assert (found["refusing half"].severity, found["helping half"].severity) == severities
    assert f"{start.refusing_refused / 10:.0%} of 10 rows" in found["refusing half"].fact


def test_a_half_that_was_not_asked_is_not_judged():
    assert "helping half" not in findings(refusing(60), start=StartAnswers(10, 9, 0, 0))


def test_measured_effects_follow_the_advice(monkeypatch):
    monkeypatch.setattr(safe_set_findings, "MEASURED", {"halves": "measured"})
    assert findings(helping(9))["halves"].advice.endswith(" (measured)")


def test_an_opening_is_one_short_line():
    (opening,) = [f for f in examine(split(refusing(60, ["I cannot\n" + "x\x1b" * 500]))) if f.name == "openings"]
    assert "\n" not in opening.fact and len(opening.fact) < 200


def test_findings_are_plain_data_for_the_report():
    for finding in examine(split(refusing(3) + helping(3))):
        assert set(asdict(finding)) == {"name", "severity", "fact", "advice"}
        assert all(asdict(finding).values()) and "\n" not in finding.advice
