import pytest

from sealtune.core.errors import UserError
from sealtune.models import gguf


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(gguf, "cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache"


def test_a_file_is_converted_once(tmp_path, cache, monkeypatch):
    conversions = []
    monkeypatch.setattr(gguf, "_convert", lambda path, folder: conversions.append(path))
    file = tmp_path / "model.gguf"
    file.write_bytes(b"one")
    assert gguf.cached_conversion(file) == gguf.cached_conversion(file)
    assert len(conversions) == 1
    file.write_bytes(b"another")
    gguf.cached_conversion(file)
    assert len(conversions) == 2


def test_a_damaged_file_is_a_user_error_and_nothing_is_cached(tmp_path, cache):
    pytest.importorskip("gguf")
    file = tmp_path / "model.gguf"
    file.write_bytes(b"not a GGUF file")
    with pytest.raises(UserError, match="cannot be read as GGUF"):
        gguf.cached_conversion(file)
    assert not list((cache / "models").iterdir())
