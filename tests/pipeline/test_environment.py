import subprocess
from pathlib import Path

import pytest

import sealtune
from sealtune.pipeline.environment import git_revision, measured, versions

CHECKOUT = Path(sealtune.__file__).parents[2]


@pytest.mark.skipif(not (CHECKOUT / ".git").exists(), reason="not a git checkout")
def test_the_revision_is_the_commit_of_this_checkout():
    command = ["git", "-C", str(CHECKOUT), "rev-parse", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert git_revision() in (commit, f"{commit}-dirty")


def test_the_cost_is_known_when_the_block_ends():
    with measured() as cost:
        assert not cost
    assert cost["seconds"] >= 0
    assert cost["peak_memory_bytes"] is None or cost["peak_memory_bytes"] > 1e6


def test_versions_of_installed_packages_only():
    found = versions()
    assert {"python", "torch", "transformers"} <= found.keys()
    assert all(found.values())
