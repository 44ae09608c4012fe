"""The tar reader against Python's own, and archives that mean harm."""

import io
import tarfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mezzotint.data.formats.tar import BLOCK, MAX_HEADER, TarMember, UnsafeTar, members


def archive(files: dict[str, bytes], form: int = tarfile.PAX_FORMAT, **changes: object) -> bytes:
    """Write files by Python's tarfile; `changes` are fields of every header."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for key, value in changes.items():
                setattr(member, key, value)
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


def listed(content: bytes) -> list[TarMember]:
    return list(members(io.BytesIO(content), len(content), "a.tar"))


def contents(content: bytes) -> dict[str, bytes]:
    return {m.name: content[m.offset : m.offset + m.size] for m in listed(content)}


FORMS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


@pytest.mark.parametrize("form", FORMS)
def test_it_finds_what_python_finds(form: str) -> None:
    files = {f"folder/{i:03d}.jpg": bytes(range(i)) * i for i in range(0, 60, 7)} | {"empty": b""}
    content = archive(files, FORMS[form])
    assert contents(content) == files
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        expected = [(m.name, m.offset_data, m.size) for m in tar.getmembers()]
    assert [(m.name, m.offset, m.size) for m in listed(content)] == expected


@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_long_and_foreign_names(form: str) -> None:
    files = {"x" * 300 + ".jpg": b"long", "d" * 90 + "/" + "é" * 40 + ".jpg": b"umlaut"}
    assert contents(archive(files, FORMS[form])) == files


def test_folders_are_passed_over_and_an_archive_may_end_without_empty_blocks() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        folder = tarfile.TarInfo("photos")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        member = tarfile.TarInfo("photos/1.jpg")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"abc"))
    assert contents(out.getvalue()) == {"photos/1.jpg": b"abc"}
    one_block = out.getvalue()[: 4 * BLOCK]
    assert contents(one_block) == {"photos/1.jpg": b"abc"}


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (tarfile.LNKTYPE, "a hard link"),
        (tarfile.SYMTYPE, "a symbolic link"),
        (tarfile.CHRTYPE, "a device"),
        (tarfile.BLKTYPE, "a device"),
        (tarfile.FIFOTYPE, "a pipe"),
        (tarfile.GNUTYPE_SPARSE, "a sparse file"),
        (b"Z", "a member of the unknown kind"),
    ],
)
def test_members_that_are_no_files_are_refused(kind: bytes, name: str) -> None:
    with pytest.raises(UnsafeTar, match=f"`a.tar` at byte 0 has {name}.* regular files only"):
        listed(archive({"a.jpg": b""}, type=kind, linkname="/etc/passwd"))


@pytest.mark.parametrize("name", ["../a.jpg", "/etc/passwd", "a/../../b", "\\\\host\\a", ".."])
def test_names_that_lead_out_are_refused(name: str) -> None:
    with pytest.raises(UnsafeTar, match="leads out of the archive. Names must be relative"):
        listed(archive({name: b"x"}))


def resized(content: bytes, field: bytes) -> bytes:
    """Change the size in the first header, with a checksum that fits."""
    header = bytearray(content[:BLOCK])
    header[124:136] = field
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + content[BLOCK:]


@pytest.mark.parametrize(
    "field",
    [b"77777777777\0", b"\x80" + b"\0" * 3 + b"\x7f" + b"\xff" * 7, b"\x80" + b"\xff" * 11],
)
def test_a_size_beyond_the_file_is_refused_before_it_is_read(field: bytes) -> None:
    with pytest.raises(UnsafeTar, match=r"states [\d,]+ bytes, and 9,728 are left"):
        listed(resized(archive({"a.jpg": b"abc"}), field))


def test_a_large_header_is_refused() -> None:
    content = archive({"x" * (MAX_HEADER + 1): b""}, tarfile.GNU_FORMAT)
    with pytest.raises(UnsafeTar, match=r"has a header of [\d,]+ bytes. At most 65,536"):
        listed(content)


@pytest.mark.parametrize(
    "start", [b"\x1f\x8b", b"BZh9", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"PK\x03\x04"]
)
def test_compressed_archives_are_refused(start: bytes) -> None:
    with pytest.raises(UnsafeTar, match="is compressed by .* Unpack it to .tar first"):
        listed(start + bytes(2000))


def test_a_cut_archive_and_other_files_are_refused() -> None:
    content = archive({"a.jpg": b"x" * 2000})
    for length in (1, 100, BLOCK, BLOCK + 700, 2 * BLOCK):
        with pytest.raises(UnsafeTar, match="not a whole tar file|bytes are left|are left"):
            listed(content[:length])
    with pytest.raises(UnsafeTar, match="has no header of a tar file|damaged header"):
        listed(b"hello " * 300)


@given(
    st.lists(st.tuples(st.integers(0, 2999), st.integers(0, 255)), min_size=1, max_size=6),
    st.sampled_from(sorted(FORMS)),
)
@settings(max_examples=150, deadline=None)
def test_changed_bytes_never_lead_out_of_the_archive(
    changes: list[tuple[int, int]], form: str
) -> None:
    content = bytearray(archive({"x" * 90: b"ab" * 400, "y.jpg": b"z"}, FORMS[form]))
    for position, value in changes:
        content[position] = value
    begin = time.process_time()
    try:
        found = listed(bytes(content))
    except UnsafeTar:
        found = []
    assert time.process_time() - begin < 1.0
    for member in found:
        assert 0 <= member.offset <= member.offset + member.size <= len(content)
        assert not member.name.startswith("/") and ".." not in member.name.split("/")


def test_only_headers_are_read(tmp_path: Path) -> None:
    """A member of 50 MB costs no memory."""

    class Counted(io.FileIO):
        read_bytes = 0

        def read(self, size: int | None = -1) -> bytes:
            found = super().read(-1 if size is None else size) or b""
            Counted.read_bytes += len(found)
            return found

    path = tmp_path / "large.tar"
    with path.open("wb") as out:
        head = archive({"large.bin": b""}, tarfile.USTAR_FORMAT)[:BLOCK]
        out.write(resized(head, b"%011o\0" % 50_000_000))
        out.truncate(BLOCK + 50_000_256 + 2 * BLOCK)
    with Counted(path) as file:
        assert [m.size for m in members(file, path.stat().st_size, "large.tar")] == [50_000_000]
    assert Counted.read_bytes <= 3 * BLOCK
