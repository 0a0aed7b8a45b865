"""GGUF files, whole and in parts."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from helpers.gguf_files import llama_tensors, write_gguf
from helpers.tiny import tiny_model
from sealtune.core.errors import UserError
from sealtune.models import gguf, model_cache
from sealtune.models.sources import resolve_model

pytest.importorskip("gguf")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(model_cache, "cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache"


def test_a_file_is_converted_once(tmp_path, cache, monkeypatch):
    conversions = []
    monkeypatch.setattr(gguf, "_convert", lambda parts, folder: conversions.append(parts))
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF one")
    assert gguf.cached_conversion(file) == gguf.cached_conversion(file)
    assert len(conversions) == 1
    file.write_bytes(b"GGUF another")
    gguf.cached_conversion(file)
    assert len(conversions) == 2


def test_a_damaged_file_is_a_user_error_and_nothing_is_cached(tmp_path, cache):
    pytest.importorskip("gguf")
    file = tmp_path / "model.gguf"
    file.write_bytes(b"not a GGUF file")
    with pytest.raises(UserError, match="cannot be read as GGUF"):
        gguf.cached_conversion(file)
    assert not [path for path in (cache / "models").iterdir() if path.suffix != ".lock"]


@pytest.fixture(scope="module")
def tensors():
    """The tensors of a two-layer Llama, by their names in GGUF."""
    return llama_tensors(tiny_model(tie_word_embeddings=True))


def write_parts(folder, tensors, suffix=".gguf"):
    names, size = list(tensors), -(-len(tensors) // 3)
    folder.mkdir(exist_ok=True)
    return [
        write_gguf(
            folder / f"tiny-{i + 1:05d}-of-00003{suffix}",
            {n: tensors[n] for n in names[i * size : (i + 1) * size]},
            i,
            3,
        )
        for i in range(3)
    ]


def test_the_parts_of_a_model_are_read_as_the_whole_from_any_part_or_the_folder(tmp_path, cache, tensors):
    whole = load_file(gguf.cached_conversion(write_gguf(tmp_path / "whole.gguf", tensors)) / "model.safetensors")
    parts = write_parts(tmp_path / "parts", tensors)
    for given in (parts[0], parts[2], tmp_path / "parts"):
        found = load_file(Path(resolve_model(str(given))) / "model.safetensors")
        assert found.keys() == whole.keys()
        assert all(bool((found[name] == whole[name]).all()) for name in whole)
    expected = tiny_model().model.layers[1].self_attn.q_proj.weight.bfloat16()
    assert bool((whole["model.layers.1.self_attn.q_proj.weight"] == expected).all())


def test_a_part_that_is_missing_is_named(tmp_path, cache, tensors):
    parts = write_parts(tmp_path / "parts", tensors)
    parts[1].unlink()
    with pytest.raises(UserError, match=r"not in its folder: tiny-00002-of-00003\.gguf; download them"):
        resolve_model(str(parts[0]))


def test_a_part_under_another_name_is_one_line(tmp_path, cache, tensors):
    part = write_parts(tmp_path / "parts", tensors)[0].rename(tmp_path / "model.gguf")
    with pytest.raises(UserError, match="this is part 1 of 3, but its name says otherwise"):
        resolve_model(str(part))


def test_parts_of_different_models_are_one_line(tmp_path, cache, tensors):
    parts = write_parts(tmp_path / "parts", tensors)
    write_gguf(parts[1], {"output_norm.weight": tensors["output_norm.weight"]}, 1, 3)
    with pytest.raises(UserError, match="the parts have 14 tensors, not 20"):
        resolve_model(str(parts[0]))


def test_a_tensor_that_a_file_lacks_is_named(tmp_path, cache, tensors):
    file = write_gguf(tmp_path / "m.gguf", {n: t for n, t in tensors.items() if n != "blk.1.ffn_up.weight"})
    with pytest.raises(UserError, match=r"m\.gguf lacks the tensor model\.layers\.1\.mlp\.up_proj\.weight"):
        resolve_model(str(file))


def test_capitals_and_a_folder_with_one_file_are_read_and_several_are_listed(tmp_path, cache, tensors):
    folder = tmp_path / "folder"
    folder.mkdir()
    file = write_gguf(folder / "TINY.GGUF", tensors)
    assert resolve_model(str(folder)) == resolve_model(str(file))
    write_gguf(folder / "other.gguf", tensors)
    with pytest.raises(UserError, match=r"several GGUF models; give one of the files: TINY\.GGUF, other\.gguf"):
        resolve_model(str(folder))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"version https://git-lfs.github.com/spec/v1\n", "a git-lfs pointer"), (b"<!DOCTYPE html>", "an HTML page")],
)
def test_a_pointer_or_a_page_is_named(tmp_path, cache, content, message):
    (tmp_path / "model.gguf").write_bytes(content)
    with pytest.raises(UserError, match=f"model.gguf: this is {message}"):
        resolve_model(str(tmp_path / "model.gguf"))
