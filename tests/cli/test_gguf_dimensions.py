"""The dimensions of a GGUF model, from its header."""

from __future__ import annotations

import numpy as np
import pytest

from sealtune.cli.dimensions import read_dimensions
from sealtune.core.config_io import build_config
from sealtune.core.errors import UserError
from sealtune.models import model_cache

pytest.importorskip("gguf")


@pytest.fixture(autouse=True)
def no_conversion(tmp_path, monkeypatch):
    monkeypatch.setattr(model_cache, "cache_folder", lambda: tmp_path / "cache")
    yield
    assert not (tmp_path / "cache").exists()


def write(path, part=None, head=False):
    """A GGUF file without weights of layers, or the part of this number of two; ``head`` adds an output layer."""
    from gguf import GGUFWriter

    writer = GGUFWriter(path, "llama")
    if not part:
        writer.add_block_count(2)
        writer.add_context_length(512)
        writer.add_embedding_length(32)
        writer.add_feed_forward_length(64)
        writer.add_head_count(4)
        writer.add_head_count_kv(2)
        writer.add_rope_dimension_count(8)
        writer.add_vocab_size(300)
        writer.add_tensor("token_embd.weight", np.zeros((300, 32), np.float32))
    if part is not None:
        writer.add_uint16("split.no", part)
        writer.add_uint16("split.count", 2)
    if head:
        writer.add_tensor("output.weight", np.zeros((300, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def dimensions(path):
    return read_dimensions(build_config({"model_name_or_path": str(path)}))


@pytest.mark.parametrize("place", ["file", "folder"])
def test_they_are_read_from_a_file_or_the_folder_it_lies_in(tmp_path, place):
    file = write(tmp_path / "model.gguf")
    found = dimensions(file if place == "file" else tmp_path)
    sizes = (found.layers, found.hidden, found.intermediate, found.heads, found.kv_heads, found.vocabulary)
    assert sizes == (2, 32, 64, 4, 2, 300)
    assert (found.tied, found.positions, found.bits) == (True, 512, None)


def test_an_output_layer_in_another_part_is_found(tmp_path):
    first = write(tmp_path / "m-00001-of-00002.gguf", part=0)
    last = write(tmp_path / "m-00002-of-00002.gguf", part=1, head=True)
    assert [dimensions(path).tied for path in (first, last)] == [False, False]


def test_a_damaged_file_is_one_line(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + b"\0" * 40)
    with pytest.raises(UserError, match=r"env: .*model\.gguf does not state the dimensions of a decoder"):
        dimensions(tmp_path / "model.gguf")
