"""Read tar files that nobody vouches for: where each member lies, and nothing else.

Nothing is unpacked, followed or executed. Only regular files are members; links, devices, sparse
files and names that leave the archive end the reading with one sentence. What a header says is
checked against the size of the file before it is used, and no header is larger than `MAX_HEADER`.
Compressed archives are refused: their size is known only after they were unpacked.

The formats are ustar, GNU (long names, large sizes) and pax, as POSIX.1-2001 and GNU tar's manual
define them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

BLOCK = 512
MAX_HEADER = 65_536
"""Bytes that a long name or a pax header may have."""
MAX_MEMBER = 2**30
"""Bytes that a member may have."""

_FOLDER, _PAX, _PAX_OF_ALL, _LONG_NAME = b"5", b"x", b"g", b"L"
_KINDS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a pipe",
    b"7": "a contiguous file",
    b"S": "a sparse file",
    b"K": "a long link",
}
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstandard",
    b"PK\x03\x04": "zip",
}


class UnsafeTar(ValueError):
    """A file that is no tar file, is damaged, or has members that are not read."""


@dataclass(frozen=True)
class TarMember:
    """A regular file in an archive.

    Attributes:
        name: relative path with `/`.
        offset: first byte of the content in the archive.
        size: bytes of the content.
    """

    name: str
    offset: int
    size: int


def members(file: BinaryIO, size: int, archive: str) -> Iterator[TarMember]:
    """Yield the regular files of an archive, in their order; only headers are read.

    Args:
        file: opened for reading, seekable.
        size: bytes of the archive.
        archive: its name, for messages.

    Raises:
        UnsafeTar: in one sentence that names the archive and the member.
    """
    position, long_name, stated_size = 0, None, None
    while True:
        block = _read(file, position, BLOCK, size, archive)
        if position == 0:
            _refuse_compressed(block, archive)
        if not block.strip(b"\0"):
            return  # two empty blocks end an archive; one is enough to know
        where = f"`{archive}` at byte {position:,}"
        kind, length, short_name = _header(block, where)
        position += BLOCK
        if kind in (_PAX, _PAX_OF_ALL, _LONG_NAME):
            if length > MAX_HEADER:
                raise UnsafeTar(f"{where} has a header of {length:,} bytes. {_LIMIT}")
            content = _read(file, position, length, size, archive)
            if kind == _LONG_NAME:
                long_name = _text(content.rstrip(b"\0"), where)
            elif kind == _PAX:
                records = _pax(content, where)
                long_name = records.get("path", long_name)
                stated_size = _whole(records["size"], where) if "size" in records else None
        else:
            # The header of a long name has its first bytes, which may end within a character.
            name, long_name = long_name or _text(short_name, where), None
            length, stated_size = length if stated_size is None else stated_size, None
            if kind not in (b"0", b"\0", _FOLDER):
                found = _KINDS.get(kind, f"a member of the unknown kind {kind!r}")
                raise UnsafeTar(f"{where} has {found}, {name!r}. {_PLAIN}")
            _refuse_outside(name, where)
            if kind != _FOLDER and not name.endswith("/"):
                if length > MAX_MEMBER or position + length > size:
                    raise UnsafeTar(
                        f"{where}: {name!r} states {length:,} bytes, and {size - position:,} are "
                        f"left (at most {MAX_MEMBER:,} are read). Write the archive again."
                    )
                yield TarMember(name, position, length)
            elif length:
                raise UnsafeTar(f"{where} has a folder with content, {name!r}. {_PLAIN}")
        position += -(-length // BLOCK) * BLOCK


_PLAIN = "A shard may have regular files only. Write it again without it."
_LIMIT = f"At most {MAX_HEADER:,} are read. Write the archive again."


def _read(file: BinaryIO, position: int, length: int, size: int, archive: str) -> bytes:
    if position + length > size:
        raise UnsafeTar(
            f"`{archive}` ends at byte {size:,} within a header. It is not a whole tar file. Copy "
            "or write it again."
        )
    file.seek(position)
    content = file.read(length)
    if len(content) != length:
        raise UnsafeTar(f"`{archive}` is shorter than {size:,} bytes. Copy or write it again.")
    return content


def _refuse_compressed(block: bytes, archive: str) -> None:
    for start, name in _COMPRESSED.items():
        if block.startswith(start):
            raise UnsafeTar(
                f"`{archive}` is compressed by {name}, so that its members cannot be reached one "
                "by one. Shards must be plain tar files. Unpack it to .tar first."
            )


def _header(block: bytes, where: str) -> tuple[bytes, int, bytes]:
    """Return kind, size and name of a header block, whose checksum must hold."""
    unsigned = sum(block) - sum(block[148:156]) + 8 * ord(" ")
    if _octal(block[148:156], where) != unsigned:
        raise UnsafeTar(f"{where} has no header of a tar file. Copy or write the archive again.")
    size = block[124:136]
    # GNU's base-256 form, for sizes of 8 GiB and more; a negative one starts with 0xff.
    length = int.from_bytes(size[1:], "big") if size[0] == 0x80 else _octal(size, where)
    name = block[:100].partition(b"\0")[0]
    prefix = block[345:500].partition(b"\0")[0] if block[257:263] == b"ustar\0" else b""
    return block[156:157], length, prefix + b"/" * bool(prefix) + name


def _octal(field: bytes, where: str) -> int:
    digits = field.strip(b" \0")
    if not all(digit in b"01234567" for digit in digits):
        raise UnsafeTar(f"{where} has a damaged header. Copy or write the archive again.")
    return int(digits or b"0", 8)


def _pax(content: bytes, where: str) -> dict[str, str]:
    """Read the records of a pax header: length, key and value, each ended by a new line."""
    records, rest = {}, content
    while rest.strip(b"\0"):
        digits, _, _ = rest[:8].partition(b" ")
        length = int(digits) if digits.isdigit() else 0
        record = rest[len(digits) + 1 : length]
        key, equals, value = record.partition(b"=")
        if not (len(digits) + 2 < length <= len(rest) and equals and value.endswith(b"\n")):
            raise UnsafeTar(f"{where} has a damaged pax header. Write the archive again.")
        if key.startswith(b"GNU.sparse"):
            raise UnsafeTar(f"{where} has a sparse file. {_PLAIN}")
        if key in (b"path", b"size"):
            records[key.decode()] = _text(value[:-1], where)
        rest = rest[length:]
    return records


def _whole(text: str, where: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise UnsafeTar(f"{where} has the size {text[:20]!r}. Write the archive again.")
    return int(text)


def _text(name: bytes, where: str) -> str:
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError:
        raise UnsafeTar(f"{where} has a name that is not UTF-8. Write the archive again.") from None


def _refuse_outside(name: str, where: str) -> None:
    parts = name.split("/")
    if not name or name.startswith(("/", "\\")) or ".." in parts or "\0" in name:
        raise UnsafeTar(
            f"{where} has the name {name!r}, which leads out of the archive. Names must be "
            "relative, without '..'. Write the archive again."
        )
