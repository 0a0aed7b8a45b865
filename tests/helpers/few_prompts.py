"""Fewer prompts than are shipped: all 200 take a tiny model longer than everything else that a test of a run does."""

from sealtune.evaluation import likelihood

EACH = 8

all_shipped = likelihood.default_prompts


def ship_few_prompts() -> None:
    """Let this process take the first harmful and the first harmless ones for those that are shipped."""
    shipped = all_shipped()
    few = tuple(p for kind in ("harmful", "harmless") for p in [p for p in shipped if p.kind == kind][:EACH])
    likelihood.default_prompts = lambda: few
