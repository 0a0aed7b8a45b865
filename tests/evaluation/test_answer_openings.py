from sealtune.evaluation.answer_openings import MAX_ADDED, openings_of
from sealtune.models.openings import COMPLIANCES, REFUSALS


def added(answers):
    found = openings_of(answers)
    assert found.refusals[: len(REFUSALS)] == REFUSALS
    assert found.compliances[: len(COMPLIANCES)] == COMPLIANCES
    return found.refusals[len(REFUSALS) :], found.compliances[len(COMPLIANCES) :]


def test_the_stated_openings_are_always_there():
    assert added([]) == ((), ())


def test_common_openings_are_added_on_their_side_in_their_shortest_pure_form():
    answers = ["It is illegal to do so."] * 3 + ["It is a fine day, go out."] * 3 + ["Great question, of course."] * 2
    refusals, compliances = added(answers)
    assert refusals == ("It is illegal",)
    assert set(compliances) == {"It is a", "Great question,"}


def test_an_opening_of_both_kinds_or_of_one_answer_is_not_added():
    mixed = ["As a rule I won't do this.", "As a rule I won't do this."] + ["As a rule I go to work by bicycle."] * 2
    refusals, compliances = added([*mixed, "Only once so far."])
    assert "As a" not in refusals + compliances
    assert "As a rule I" not in refusals + compliances
    assert refusals == ("As a rule I won't",)
    assert compliances == ("As a rule I go",)


def test_what_a_stated_opening_covers_is_not_added():
    assert added(["I'm sorry, but I can't help with that."] * 5 + ["Sure, here is a list."] * 5) == ((), ())


def test_a_beginning_of_a_stated_opening_of_the_other_kind_is_not_added():
    """A safe set that only helps must not make "I am" a compliance: "I am sorry" begins so, too."""
    _, compliances = added(["I am glad that you ask."] * 5)
    assert compliances == ("I am glad",)


def test_the_commonest_ones_are_added():
    answers = [f"Topic {word} is nice to read about." for i, word in enumerate("abcdefghijkl", 2) for _ in range(i)]
    _, compliances = added([*answers, *["Topic zero, I cannot help with."] * 20])
    assert len(compliances) == MAX_ADDED
    assert compliances[0] == "Topic l"


def test_words_on_several_lines_are_not_joined():
    _, compliances = added(["My list:\n1. one\n2. two"] * 3)
    assert compliances == ("My list:",)
