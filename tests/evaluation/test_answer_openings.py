from sealtune.evaluation.answer_openings import MAX_ADDED, openings_of
from sealtune.models.openings import REFUSALS

NO = "I cannot help with"
"""What makes the first sentence of an answer a refusal."""


def added(answers):
    found = openings_of(answers)
    assert found[: len(REFUSALS)] == REFUSALS
    return found[len(REFUSALS) :]


def test_the_stated_openings_are_always_there():
    assert added([]) == ()


def test_common_openings_of_refusals_are_added_in_their_shortest_pure_form():
    answers = ["It is illegal to do so."] * 3 + ["It is a fine day, go out."] * 3 + ["Great question, of course."] * 2
    assert added(answers) == ("It is illegal",)


def test_an_opening_of_both_kinds_or_of_one_answer_is_not_added():
    mixed = ["As a rule I won't do this.", "As a rule I won't do this."] + ["As a rule I go to work by bicycle."] * 2
    assert added([*mixed, f"Only once, {NO} that."]) == ("As a rule I won't",)


def test_what_a_stated_opening_covers_is_not_added():
    assert added(["I'm sorry, but I can't help with that."] * 5 + ["Sure, here is a list."] * 5) == ()


def test_the_commonest_ones_are_added():
    names = "abcdefghijklmnopqrstuv"
    answers = [f"Topic {word}, {NO} it." for i, word in enumerate(names, 2) for _ in range(i)]
    found = added([*answers, *["Topic zero is nice to read about."] * 60])
    assert len(found) == MAX_ADDED
    assert found[0] == "Topic v,"


def test_words_on_several_lines_are_not_joined():
    assert added([f"My list:\n{NO} that."] * 3) == ("My list:",)
