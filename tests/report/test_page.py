import hashlib
import json
import os
import re
import shutil
import sys
from base64 import b64encode
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mezzotint.report.page import write_report

MakeRun = Callable[..., Path]
Images = Callable[..., dict[str, Any]]

VOID = {"meta", "img", "br", "link", "input", "hr"}
HOSTILE = (
    "<script>window.canary=1</script>",
    '"><img src=x onerror="window.canary=2">',
    "</td></table>'{{ 7 * 7 }}",
)


class Page(HTMLParser):
    """Reads a page strictly: every element must be closed in order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.scripts: list[str] = []
        self.html = path.read_text(encoding="utf-8")
        self.feed(self.html)
        self.close()
        assert self.open == [], f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        assert len(attrs) == len(dict(attrs)), f"an attribute twice in {tag}"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif not self.open or self.open[-1] != "style":
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def sections(self) -> set[str]:
        return {section["id"] or "" for section in self.all("section")}

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


def report(run: Path) -> Page:
    path = write_report(run)
    assert path == run / "report.html"
    return Page(path)


def rows_of(run: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((run / "evaluation.json").read_text())
    return rows


def lines_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def write_lines(run: Path, lines: list[dict[str, Any]]) -> None:
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


ALL = {"results", "curves", "errors", "map", "neighbors", "gallery", "reproduce"}


def test_a_complete_run_fills_every_section(make_run: MakeRun) -> None:
    page = report(make_run())
    assert page.sections == ALL
    # Of twelve test samples the intervals are wide, and the page says so first.
    assert re.search(
        r"tiny This encoder is not ahead of raw input \(\+0.260, 95 % −[\d.]+ to \+[\d.]+\), "
        r"hand-made features \(\+0.110, 95 % −[\d.]+ to \+[\d.]+\) or the untrained encoder "
        r"\(\+0.210, 95 % −[\d.]+ to \+[\d.]+\): it scores 0.810 on label, holdout\. Best probe of",
        page.words,
    )
    assert (
        "Best probe of each side: this encoder 0.810 (linear probe); raw input 0.550 (kNN); "
        "hand-made features 0.700 (linear probe); untrained encoder 0.600 (linear probe)."
    ) in page.words
    assert "hand-made features (color statistics by area and gradient orientations)" in page.words
    for expected in (
        "mezzotint pretrain tiny.yaml --out runs/tiny",
        "a <fast> one",
        "12 345",
        "kind: simclr",
    ):
        assert expected in page.words
    assert "truncated: bad1.jpg, bad2.jpg" in page.words
    assert "linear/1 k=10" in page.words
    assert "Online kNN" in page.words
    assert "Healthy: the features use 40% of their directions" in page.words
    assert len(page.all("td")) == (2 + 2 + 1) * 9, (
        "two probes, two label-free measures, one that is further; 9 columns"
    )


def test_maps_of_several_epochs_stand_side_by_side(make_run: MakeRun) -> None:
    run = make_run()
    (run / "maps").mkdir()
    rng, labels = np.random.default_rng(0), np.arange(24) % 3
    for epoch in range(0, 20, 2):
        components = rng.normal(size=(24, 4)).astype(np.float16)
        path = run / "maps" / f"epoch-{epoch:04d}.npz"
        np.savez(path, components=components, samples=np.arange(24), labels=labels)
    page = report(run)
    assert page.sections == ALL | {"maps"}
    assert (
        "The same 24 training samples during training, laid out by t-SNE, 8 of 10 maps."
        in page.words
    )
    labeled = [
        svg["aria-label"]
        for svg in page.all("svg")
        if "Map of the features" in (svg.get("aria-label") or "")
    ]
    assert (
        len(labeled) == 8
        and str(labeled[0]).endswith("before training")
        and str(labeled[-1]).endswith("epoch 18")
    )
    dots = [path["d"] or "" for path in page.all("path") if path.get("data-label") == "1"]
    assert [d.count("M") for d in dots[-8:]] == [8] * 8
    assert page.html == write_report(run).read_text(encoding="utf-8")


def test_the_page_loads_nothing_and_names_what_may_run(make_run: MakeRun) -> None:
    page = report(make_run())
    for tag, attributes in page.elements:
        assert "style" not in attributes and not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "data", "srcset", "action", "poster"):
            value = attributes.get(name) or ""
            assert not value or value.startswith(("data:image/", "#")), f"{tag} {name}={value[:60]}"
    assert page.all("link") == []
    [policy] = [
        m["content"] or ""
        for m in page.all("meta")
        if m.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy.startswith("default-src 'none'; img-src data:; ") and "unsafe" not in policy
    _, script = page.scripts
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    style = re.search(r"<style>(.*?)</style>", page.html, re.DOTALL)
    assert style is not None and "url(" not in style[1] and "@import" not in style[1]
    assert b64encode(hashlib.sha256(style[1].encode()).digest()).decode() in policy
    assert len(page.html) < 3_000_000


def test_two_reports_of_a_run_are_equal(make_run: MakeRun) -> None:
    run = make_run()
    assert write_report(run).read_bytes() == write_report(run).read_bytes()


def test_hostile_names_are_shown_and_not_used(make_run: MakeRun) -> None:
    run = make_run(classes=HOSTILE, name='run"><b onclick=x>&amp;')
    evil = HOSTILE[1] + HOSTILE[0] + HOSTILE[2]
    first, *rest = rows_of(run)
    rows = [
        first | {"probe": evil, "metric": f"{evil}/top1"},
        *(r | {"metric": f"a{evil}/top1"} for r in rest),
    ]
    (run / "evaluation.json").write_text(json.dumps(rows))
    write_lines(run, [line | {evil: 1.0, f"knn/{evil}": 0.5} for line in lines_of(run)])
    environment = json.loads((run / "environment.json").read_text())
    environment |= {"command": evil, evil: evil, "unreadable": {evil: evil}}
    (run / "environment.json").write_text(json.dumps(environment))
    recipe = run / "recipe.yaml"
    recipe.write_text(recipe.read_text() + f"# {evil}\n")
    page = report(run)
    assert page.sections == ALL
    assert len(page.all("script")) == 2 and len(page.scripts) == 2
    assert all(not name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert all((image["src"] or "").startswith("data:") for image in page.all("img"))
    assert page.text.count("window.canary=1") >= 8, "shown as text wherever a name is shown"
    assert "{{ 7 * 7 }}" in page.text and "49" not in [w.strip("'") for w in page.words.split()]
    assert json.loads(page.scripts[0])["map"]["classes"]["0"] in HOSTILE


def drop(*names: str) -> Any:
    def change(run: Path) -> None:
        for name in names:
            shutil.rmtree(run / name) if (run / name).is_dir() else (run / name).unlink()

    return change


def write(name: str, content: str) -> Any:
    return lambda run: (run / name).write_text(content)


def one_value(value: float | None) -> Any:
    return lambda run: (run / "evaluation.json").write_text(
        json.dumps([rows_of(run)[0] | {"value": value}])
    )


def half_a_line(run: Path) -> None:
    write_lines(run, lines_of(run)[:1])
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')


def no_loss(run: Path) -> None:
    write_lines(run, [line | {"loss": None, "grad_norm": None} for line in lines_of(run)])


FEW = {"results", "curves", "reproduce"}
CASES = {
    "no evaluation": (
        drop("evaluation.json", "baselines.json"),
        ALL,
        "This run is not evaluated yet",
    ),
    "empty evaluation": (write("evaluation.json", "[]"), ALL, "This run is not evaluated yet"),
    "no baselines": (
        drop("baselines.json"),
        ALL,
        "This encoder scores 0.810 on label, holdout. Best probe of each side: this encoder 0.810",
    ),
    "value is null": (one_value(None), ALL, "This encoder scores NaN on label, holdout"),
    "value is NaN": (one_value(float("nan")), ALL, "This encoder scores NaN"),
    "evaluation cut off": (
        write("evaluation.json", '[{"probe": "li'),
        ALL,
        "The evaluation cannot be read",
    ),
    "evaluation of another kind": (
        write("evaluation.json", '{"a": 1}'),
        ALL,
        "The evaluation cannot be read",
    ),
    "environment cut off": (write("environment.json", '{"command": "me'), ALL, "label, holdout"),
    "no metrics": (drop("metrics.jsonl"), ALL, "Nothing is logged."),
    "empty metrics": (write("metrics.jsonl", ""), ALL, "Nothing is logged."),
    "one point": (lambda run: write_lines(run, lines_of(run)[:1]), ALL, "1 step is logged. Loss3"),
    "half a line": (half_a_line, ALL, "Loss3"),
    "all losses NaN": (no_loss, ALL, "Learning rate"),
    "no environment": (drop("environment.json"), ALL, "label, holdout"),
    "no encoder": (
        drop("encoder"),
        FEW,
        "There are no pictures, because the data or the encoder cannot be opened: ",
    ),
    "no recipe": (drop("recipe.yaml"), FEW, "has no recipe.yaml, so it is not a run"),
    "data gone": (
        lambda run: (run.parent / "images.npz").unlink(),
        FEW,
        "There are no pictures",
    ),
    "nothing but metrics": (
        drop("recipe.yaml", "encoder", "evaluation.json", "baselines.json", "environment.json"),
        FEW,
        "Not evaluated yet",
    ),
}


@pytest.mark.parametrize(("change", "sections", "says"), CASES.values(), ids=CASES.keys())
def test_whatever_is_missing_the_page_is_whole_and_says_so(
    make_run: MakeRun, change: Any, sections: set[str], says: str
) -> None:
    run = make_run()
    change(run)
    page = report(run)
    assert page.sections == sections
    assert says in page.words
    assert "nan" not in page.scripts[0] and "NaN" not in page.scripts[0], "JSON has no NaN"


def test_a_collapse_during_training_is_a_warning(make_run: MakeRun) -> None:
    run = make_run()
    lines = lines_of(run)
    lines[2]["collapsed"] = 1.0
    write_lines(run, lines)
    assert f"The features had collapsed by step {lines[2]['step']}." in report(run).words


def test_without_labels_the_map_has_no_colors_and_no_table_of_classes(
    make_run: MakeRun, colored_images: Images, tmp_path: Path
) -> None:
    np.save(tmp_path / "images.npy", colored_images(40)["x"])
    run = make_run(data={"kind": "arrays", "path": str(tmp_path / "images.npy")})
    rank = rows_of(run)[-1] | {"metric": "all/rankme", "value": 3.5}
    (run / "evaluation.json").write_text(json.dumps([rank]))
    write_lines(run, [{"step": 1, "loss": 1.0}])
    page = report(run)
    assert page.sections == ALL - {"errors"}
    assert not any("legend" in (d.get("class") or "") for d in page.all("div"))
    assert "✓" not in page.text and "✗" not in page.text
    script = json.loads(page.scripts[0])["map"]
    assert {point[2] for point in script["points"]} == {-1} and script["classes"] == {}
    assert "Evaluated without labels" in page.words


@pytest.mark.skipif(
    sys.platform != "linux", reason="file names that are no text exist on Linux alone"
)
def test_names_that_are_no_text_do_not_stop_the_page(
    make_run: MakeRun, colored_images: Images, tmp_path: Path
) -> None:
    root = tmp_path / "folder"
    for i, pixels in enumerate(colored_images(24, size=24)["x"]):
        folder = root / f"class{i % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
    shutil.copy(
        root / "class0" / "00.png", os.fsdecode(os.fsencode(root / "class0") + b"/\xff\xfe.png")
    )
    run = make_run(data={"kind": "image_folder", "root": str(root), "size": 16})
    page = report(run)
    assert page.sections == ALL
    assert any(name.endswith(".png") for name in json.loads(page.scripts[0])["map"]["names"])


@pytest.mark.parametrize("content", [None, "something else"])
def test_what_is_no_run_is_refused(tmp_path: Path, content: str | None) -> None:
    folder = tmp_path / "folder"
    if content:
        folder.mkdir()
        (folder / "notes.txt").write_text(content)
    with pytest.raises(
        ValueError,
        match="is not a run. It must be a directory written by `mezzotint pretrain`",
    ):
        write_report(folder)
