"""A process that believes it is one of several."""

from types import SimpleNamespace

from sealtune.core import distributed


def pretend(monkeypatch, num_processes, process_index=0):
    """Let ``distributed`` see this many processes, and this one at the given index; nothing is communicated."""
    state = SimpleNamespace(
        num_processes=num_processes, process_index=process_index, is_main_process=process_index == 0
    )
    monkeypatch.setattr(distributed, "is_launched", lambda: num_processes > 1)
    monkeypatch.setattr(distributed, "state", lambda: state)
