"""Checkpoints as another version, or somebody else, might have written them."""

import json


def forge_checkpoint(folder, name, change):
    """Change one tensor of a checkpoint, or take it out where ``change`` is None, so that the hash fits."""
    from safetensors.torch import load_file, save_file

    from sealtune.core.checkpoints import seal
    from sealtune.core.files import hash_file

    state = load_file(folder / "state.safetensors")
    found = state.pop(name)
    save_file(state | ({name: change(found).contiguous()} if change else {}), folder / "state.safetensors")
    about = json.loads((folder / "checkpoint.json").read_text())
    about["sha256"] = hash_file(folder / "state.safetensors")
    (folder / "checkpoint.json").write_text(json.dumps(seal(about)))
