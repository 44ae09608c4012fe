"""Every command of the pages on reproducing runs as it is written, on tiny data."""

import contextlib
import io
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

from mezzotint.cli.app import run
from mezzotint.detection.recipes import shipped_transfers
from mezzotint.recipe import reading
from mezzotint.report import page as report
from mezzotint.runs import subject
from tests import ROOT
from tests.docs import reproduction
from tests.docs.reproduction import SETS, named, shrink

PAGES = sorted((ROOT / "docs" / "reproduce").glob("*.md"))
INDEX = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")


def commands(page: Path) -> list[str]:
    """Collect the commands of the table under Commands, in order."""
    section = page.read_text(encoding="utf-8").split("\n## Commands\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line[:1] == "|"]
    return [command for row in rows for command in re.findall(r"`(mezzotint [^`]+)`", row)]


def arguments(command: str, *, whole: bool) -> list[str]:
    """Return the arguments of a command, with options that only save time."""
    verb, *rest = shlex.split(command)[1:]
    if verb == "codes":
        rest += ["--samples", "8", "--frequent", "1"]
    if verb == "prepare":
        rest += ["--workers", "0"]
    if verb == "import" and rest[0].endswith((".tar", ".ckpt")) and "--size" not in rest:
        rest += ["--size", "32"]
    if verb == "pretrain" and not whole and "--dry-run" not in rest:
        rest += ["--train-only"]
    return [verb, *rest]


def outcome(words: list[str]) -> tuple[int, str]:
    """Run a command; return its exit code and what it printed."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        return run(words), said.getvalue()


class Site:
    """The folder of a page, and how many of its commands have run there.

    Later commands take runs and encoders of earlier ones.
    """

    def __init__(self, folder: Path, page: Path) -> None:
        self.folder, self.commands, self.done = folder, commands(page), 0
        pretraining = "mezzotint pretrain image/"
        self.whole = next(c for c in self.commands if c.startswith(pretraining))
        reproduction.checkpoints(folder)

    def run_until(self, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Run the commands up to this one that have not run yet."""
        for each in self.commands[self.done : self.commands.index(command) + 1]:
            self.done += 1
            for name in named(each):
                if not (self.folder / name).exists():
                    SETS[name](self.folder / name)
            with monkeypatch.context() as patch:
                if each != self.whole:  # a page takes seconds, and is written the same way
                    patch.setattr(report, "write_report", lambda run, *_, **__: run / "page")
                code, said = outcome(arguments(each, whole=each == self.whole))
            assert code == 0, f"{each}\n{said}"


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Site]:
    return {page.stem: Site(tmp_path_factory.mktemp(page.stem), page) for page in PAGES}


# One process runs all commands of a page, because later ones need the runs of earlier ones.
ALL = [
    pytest.param(page.stem, command, marks=pytest.mark.xdist_group(f"reproduce_{page.stem}"))
    for page in PAGES
    for command in commands(page)
]


@pytest.mark.parametrize(("page", "command"), ALL)
def test_command_runs(
    page: str, command: str, sites: dict[str, Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recipes are made small after their overrides are read."""
    overridden = reading.apply_overrides

    def small(config: dict[str, Any], overrides: Any) -> dict[str, Any]:
        return shrink(overridden(config, overrides))

    for module in (reading, subject):
        monkeypatch.setattr(module, "apply_overrides", small)
    monkeypatch.chdir(sites[page].folder)
    sites[page].run_until(command, monkeypatch)


def test_every_page_has_its_commands() -> None:
    assert len(PAGES) == 5 and len(ALL) >= 90
    assert min(len(commands(page)) for page in PAGES) >= 15


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_is_linked_and_its_links_lead_somewhere(page: Path) -> None:
    assert f"](reproduce/{page.name})" in INDEX
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_names_the_recipes_and_tests_that_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    recipes = {*reading.shipped(), *(f"transfer/{name}" for name in shipped_transfers())}
    rooms = "image|audio|video|supervised|points|dabs|transfer"
    for name in re.findall(rf"(?<![\w/])((?:{rooms})/\w+)", text):
        assert name in recipes, name
    for name in re.findall(r"`(tests/[\w/]+\.py)`", text):
        assert (ROOT / name).exists(), name


def test_python_of_randomized_quantization() -> None:
    blocks = re.findall(
        r"```python\n(.*?)```",
        (ROOT / "docs/reproduce/randquant.md").read_text(encoding="utf-8"),
        re.S,
    )
    scope: dict[str, Any] = {"__name__": "page"}
    exec(compile("\n".join(blocks), "randquant.md", "exec"), scope)
    assert scope["view"].shape == (3, 224, 224)
    x = torch.rand(40, 3, 8, 8)
    kept = (scope["second"](x) == x).flatten(1).all(dim=1).sum()
    assert 5 < kept < 35
    one, other = scope["Contrast"](torch.nn.Identity())(x, x)
    assert not torch.equal(one, other)
