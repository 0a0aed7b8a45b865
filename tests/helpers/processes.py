"""A process that believes it is one of several."""

from types import SimpleNamespace

from sealtune.core import distributed


def pretend(monkeypatch, count, index=0):
    """Let ``distributed`` see ``count`` processes, of which this one is number ``index``; nothing is communicated."""
    state = SimpleNamespace(num_processes=count, process_index=index, is_main_process=index == 0)
    monkeypatch.setattr(distributed, "is_launched", lambda: count > 1)
    monkeypatch.setattr(distributed, "state", lambda: state)
