import pytest
import torch

from sealtune.core.errors import UserError
from sealtune.models.state_dict import check_shapes, gather_states, restore_states, restoring


class Counter:
    def __init__(self, value):
        self.value = torch.tensor(value)

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        check_shapes(state, {"value": self.value})
        self.value = state["value"]


def test_gathered_states_are_restored_part_by_part():
    state = gather_states({"a": Counter([1]), "b": Counter([2])})
    parts = {"a": Counter([0]), "b": Counter([0])}
    restore_states(parts, state)
    assert [part.value.tolist() for part in parts.values()] == [[1], [2]]


@pytest.mark.parametrize(
    ("state", "cause"),
    [({}, "value is missing"), ({"a.value": torch.zeros(3)}, r"value has the shape \(3,\), not \(1,\)")],
)
def test_a_state_that_does_not_fit_is_one_line(state, cause):
    with pytest.raises(UserError, match=f"the checkpoint does not fit this run .{cause}.; .*delete it"), restoring():
        restore_states({"a": Counter([0])}, state)
