"""Files by path and by URL, and URLs that are refused."""

from pathlib import Path

import fsspec
import pytest

from mezzotint.data.formats import storage


def test_a_path_and_its_url_read_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"0123456789")
    (tmp_path / "b.txt").write_bytes(b"")
    for root in (str(tmp_path), f"file://{tmp_path}", f"file://{tmp_path}/"):
        path = storage.join(root, "a.tar")
        assert storage.names_below(root, ".tar") == ["a.tar"]
        assert storage.size_of(path) == 10
        assert storage.read_range(path, 3, 4) == b"3456"
        assert storage.read_range(path, 8, 10) == b"89"
        with storage.opened(path) as file:
            file.seek(5)
            assert file.read() == b"56789"
        with pytest.raises(FileNotFoundError):
            storage.read_range(storage.join(root, "none.tar"), 0, 4)


def test_memory() -> None:
    with fsspec.open("memory://storage/a.tar", "wb") as file:
        file.write(b"abc")
    assert storage.names_below("memory://storage", ".tar") == ["a.tar"]
    assert storage.read_range("memory://storage/a.tar", 1, 1) == b"b"


def test_other_roots_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be listed .* folder of shards"):
        storage.names_below(str(tmp_path / "none"), ".tar")
    with pytest.raises(ValueError, match="chains protocols"):
        storage.read_range("simplecache::memory://a", 0, 1)
    with pytest.raises(ValueError, match="Use a protocol that fsspec knows"):
        storage.size_of("nothing://a/b")
    fsspec.register_implementation("absent", "absent_plug_in.System", clobber=True)
    with pytest.raises(ModuleNotFoundError, match="needs a plug-in of fsspec"):
        storage.size_of("absent://a/b")
