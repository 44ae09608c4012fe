"""Bad input over all verbs: the exit code and the exact sentence, as `messages.yaml` has them.

A sentence says what was wrong, what is accepted, and what to do. `<Method>` stands for all kinds of
a family, so that the table stays when one is added. After sentences changed, write the table again
with `python -m tests.cli.test_messages`, and read the difference before you commit it.
"""

import contextlib
import io
import os
import re
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml
from PIL import Image
from pyarrow import parquet

from mezzotint.cli.app import run
from mezzotint.data.table.table import Table
from mezzotint.encoders.resnet import resnet8
from mezzotint.encoders.rows import TableMLP
from mezzotint.encoders.saving import save_encoder
from mezzotint.recipe.recipe import Recipe, resolve_recipe
from mezzotint.recipe.signatures import index
from mezzotint.train.loop import pretrain
from mezzotint.types import Input
from tests import ROOT
from tests.data.image.stored import write_dicom
from tests.tiny import config

TABLE = ROOT / "tests/cli/messages.yaml"
CASES: list[dict[str, Any]] = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
FILES = {
    "twice.yaml": "run: {epochs: 1, epochs: 2}\n",
    "alias.yaml": "run: &a {epochs: 1}\nviews: *a\n",
    "list.yaml": "- 1\n- 2\n",
    "nothing.yaml": "",
    "broken.yaml": "run: {epochs: 1\n",
    "tag.yaml": "run: !!python/object/apply:os.system [ls]\n",
    "part.yaml": "data: {kind: embedded_images, name: digits}\n",
    "study.yaml": "recipe: image/emoji_simclr\nfactors: {method.temprature: [1]}\n",
    "encoder.yaml": "encoder: {kind: resnet8}\n",
    "thesis/thesis.txt": "years of work\n",
    "notes.txt": "hello\n",
    "outside.csv": "Path,cat\n../notes.txt,1\n",
    "broken.pt": "not a checkpoint\n",
    "flowers.csv": "height,width,species\n" + "1.5,2,iris\n2.5,3,rose\n" * 4,
    "other.csv": "height,color\n1,red\n",
    "odd.csv": "height,width\n" + "1,2\n" * 20 + "tall,3\n" + "2,2\n" * 20,
    "ragged.csv": "a,b\n1,2\n3,4,5\n",
    "header.csv": "a,b\n",
    "numbers.csv": "3,1,2\n4,5,6\n7,8,9\n",
    "walks.csv": "subject,activity,x\n" + "".join(f"{n // 8},run,{n % 5}\n" for n in range(32)),
    "words.csv": "recording,x\na,1\na,up\na,2\n",
    "reviews.csv": "text,label\n" + "good book,1\nbad book,0\n" * 4,
    "empty.txt": "",
    "sounds.csv": "filename,category,fold\n0.wav,dog,1\n1.wav,cat,2\n",
    "away.csv": "filename,category\n../0.wav,dog\n",
    "fold.csv": "filename,category,fold\n0.wav,dog,first\n",
    "videos.csv": 'path,labels\na.mp4,"run,jump"\n',
    "captions.csv": "file,words\n0.png,a cat\n",
}


def make_files() -> None:
    """Write everything that the commands of the table name, into the working directory."""
    for name, text in FILES.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text, encoding="utf-8")
    Path("latin.yaml").write_bytes("run: {epochs: 1}  # é\n".encode("latin-1"))
    Path("empty").mkdir()
    Path("photos/cats").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(3):
        pixels = rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"photos/cats/{number}.png")
    for number in range(2):
        Path("mixed").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(f"mixed/{number}.png")
        np.save(f"mixed/{number}.npy", np.zeros((8, 3)))
    parquet.write_table(pa.table({"a": [b"hello"], "b": [b"x"]}), "bytes.parquet")
    parquet.write_table(pa.table({"x": [[1.0, 2.0], [3.0]] * 4}), "lists.parquet")
    Path("broken.parquet").write_bytes(b"PAR1")
    for name, channels in (("stored", (2, 2)), ("uneven", (2, 3, 2, 3))):
        Path(name).mkdir()
        for number, count in enumerate(channels):
            np.save(f"{name}/{number}.npy", rng.random((12, 12, count), dtype=np.float32))
    Path("lines").mkdir()
    np.save("lines/0.npy", np.arange(9))
    Path("scans").mkdir()
    write_dicom(Path("scans/0.dcm"), None)
    np.savez("wide.npz", x=np.full((4, 3, 8, 8), 7.0, np.float32))
    np.savez("five.npz", x=rng.random((40, 5, 32, 32), dtype=np.float32))
    np.savez("pickle.npz", x=np.array([{"a": 1}], dtype=object))
    np.savez("two.npz", a=np.zeros((4, 8, 3)), b=np.zeros((4, 8, 3)))
    np.savez("few.npz", x=np.full((2, 3, 3), np.nan))
    np.savez("tokens.npz", ids=np.zeros((3, 4), np.int64), y=np.zeros(3, np.int64))
    np.savez("tall.npz", x=np.zeros((3, 4), np.int64), y=np.zeros(5, np.int64))
    flowers = Table(path="flowers.csv", y="species")
    rows = TableMLP(flowers.input, width=4)
    rows.preprocessing = flowers.preprocessing()
    save_encoder(rows, "rows")
    save_encoder(resnet8(Input((3, 32, 32), (0.5,) * 3, (0.5,) * 3), width=4), "encoder")
    tiny = config(batch_size=512, compute={"channels_last": False})
    tiny["encoder"] = {"kind": "resnet8", "width": 2}
    pretrain(Recipe.build(resolve_recipe(tiny)), "run", progress="quiet")


def kinds(family: str) -> str:
    """The kinds of a family, as messages list them."""
    return ", ".join(index().members(family))


def outcome(command: str) -> tuple[int, str]:
    """The exit code of a command, and what it prints on stderr."""
    with (
        contextlib.redirect_stderr(io.StringIO()) as said,
        contextlib.redirect_stdout(io.StringIO()),
    ):
        code = run(shlex.split(command))
    return code, said.getvalue()


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with (
        contextlib.chdir(tmp_path_factory.mktemp("messages")),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(torch.cuda, "is_available", lambda: False)
        patch.setenv("PATH", os.devnull)  # no sbatch here
        make_files()
        yield Path.cwd()


@pytest.mark.parametrize("case", CASES, ids=[case["run"] for case in CASES])
def test_the_sentence_and_the_exit_code(case: dict[str, Any], folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    says = re.sub(r"<(\w+)>", lambda match: kinds(match[1]), case["says"])
    assert outcome(case["run"]) == (case["code"], f"mezzotint: {says}\n")
    assert sorted(folder.rglob("*")) == before, "a refused command writes nothing"


def test_the_table_is_large_and_covers_every_verb() -> None:
    from typer.main import get_command

    from mezzotint.cli import app

    verbs = set(get_command(app).commands)  # type: ignore[attr-defined]
    assert len(CASES) >= 60 and verbs <= {case["run"].split()[0] for case in CASES}
    assert len({case["run"] for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=[case["run"] for case in CASES])
def test_sentences_follow_one_manner(case: dict[str, Any]) -> None:
    text = case["says"]
    assert re.search(r"[.?]$", text) and "\n" not in text, "whole sentences in one line"
    assert not re.search(r"\ballowed\b|^got |\bTraceback\b", text), "one manner"
    advice = len(re.findall(r"[.?](?: |$)", text)) >= 2 or "must be one of" in text
    assert advice, "what is wrong or accepted, and what to do"


if __name__ == "__main__":
    os.environ["PATH"] = os.devnull
    torch.cuda.is_available = lambda: False
    with tempfile.TemporaryDirectory() as temporary, contextlib.chdir(temporary):
        make_files()
        for case in CASES:
            case["code"], errors = outcome(case["run"])
            case["says"] = errors.strip().removeprefix("mezzotint: ")
            for family in ("Encoder", "Method", "Policy", "Probe"):
                case["says"] = case["says"].replace(kinds(family), f"<{family}>")
    TABLE.write_text(
        "".join(
            yaml.safe_dump([case], sort_keys=False, allow_unicode=True, width=96) for case in CASES
        ),
        encoding="utf-8",
    )
