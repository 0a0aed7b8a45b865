"""Checkpoints as another version, or somebody else, might have written them."""

import json


def forge_checkpoint(folder, name, change):
    """Change one tensor of a checkpoint, or remove it if ``change`` is None. The hashes stay valid."""
    state = _load(folder)
    found = state.pop(name)
    _save(folder, state | ({name: change(found).contiguous()} if change else {}))


def rename_in_checkpoint(folder, names):
    """Rename tensors of a checkpoint. The hashes stay valid."""
    _save(folder, {names.get(name, name): value for name, value in _load(folder).items()})


def _load(folder):
    from safetensors.torch import load_file

    return load_file(folder / "state.safetensors")


def _save(folder, state):
    from safetensors.torch import save_file

    from sealtune.core.checkpoints import seal
    from sealtune.core.files import hash_file

    save_file(state, folder / "state.safetensors")
    about = json.loads((folder / "checkpoint.json").read_text())
    about["sha256"] = hash_file(folder / "state.safetensors")
    (folder / "checkpoint.json").write_text(json.dumps(seal(about)))
