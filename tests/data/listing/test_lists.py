from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mezzotint.data.audio.folder import AudioFolder
from mezzotint.data.image_tags import ImageTags
from mezzotint.data.image_text import CaptionedImages
from mezzotint.data.listing.lists import (
    ListedFile,
    classes_of,
    read_label_table,
    read_list,
    require_inside,
)
from mezzotint.data.source import Source
from mezzotint.data.video.folder import VideoFolder


def test_reads_the_lists_of_known_data_sets(tmp_path: Path) -> None:
    cases = {
        "esc50.csv": (
            "filename,fold,target,category,esc10\n1-17150-A-12.wav,1,12,crackling_fire,True\n",
            ListedFile("1-17150-A-12.wav", ("crackling_fire",), 1),
        ),
        "us8k.csv": (
            "slice_file_name,fsID,fold,classID,class\n100032.wav,100032,5,3,dog_bark\n",
            ListedFile("100032.wav", ("dog_bark",), 5),
        ),
        "fsd50k.csv": (
            'fname,labels,mids\n64760,"Electric_guitar,Music","/m/02,/m/04"\n',
            ListedFile("64760", ("Electric_guitar", "Music")),
        ),
        "plain.csv": ("\ufeffpath, label\na b.wav, dog\n", ListedFile("a b.wav", ("dog",))),
        "unlabeled.csv": ("path\na.wav\n\n", ListedFile("a.wav", ())),
        "ast.json": (
            '{"data": [{"wav": "a.wav", "labels": "/m/1, /m/2"}]}',
            ListedFile("a.wav", ("/m/1", "/m/2")),
        ),
        "several.json": (
            '[{"wav": "a.wav", "labels": ["Speech, male", "Rain"]}]',
            ListedFile("a.wav", ("Speech, male", "Rain")),
        ),
        "one.json": (
            '[{"wav": "a.wav", "label": "Speech, male"}]',
            ListedFile("a.wav", ("Speech, male",)),
        ),
        "comma.csv": ('path,label\na.wav,"Speech, male"\n', ListedFile("a.wav", ("Speech, male",))),
        "semicolon.CSV": (
            "path;label\na.wav;Speech, male\n",
            ListedFile("a.wav", ("Speech, male",)),
        ),
        "lines.csv": (
            'path,label\na.wav,"one\u2028\x0btwo"\n',
            ListedFile("a.wav", ("one\u2028\x0btwo",)),
        ),
        "bridle.JSON": ('[{"wav": "a.wav"}]', ListedFile("a.wav", ())),
    }
    for name, (text, expected) in cases.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert read_list(str(tmp_path / name)) == [expected]


def test_classes_are_sorted_numbers_by_value() -> None:
    assert classes_of([ListedFile("a", ("10",)), ListedFile("b", ("9",)), ListedFile("c", ())]) == [
        "9",
        "10",
    ]
    assert classes_of([ListedFile("a", ("b", "a")), ListedFile("b", ("10",))]) == ["10", "a", "b"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "path,label\na.wav,b,c\n", "line 2, must have 2 cells, as the first line, got 3"),
        (
            "a.csv",
            "sound,label\na.wav,b\n",
            "must have one of the columns path, .*, got sound, label",
        ),
        ("a.csv", "path,fold\na.wav,x\n", "line 2, has no file, or a fold that is not a number"),
        ("a.csv", "path,label\n", "lists no file"),
        ("a.csv", "", "lists no file"),
        ("a.json", "{", "is not valid JSON"),
        ("a.json", '{"files": []}', "must be a JSON list .*, got a dict"),
        ("a.json", '[{"path": "a.wav"}]', 'entry 0, has no "wav"'),
        ("a.json", '[{"wav": "a.wav", "labels": [3]}]', "entry 0, must have one label as text"),
        ("a.json", '[{"wav": "a.wav", "label": ["b"]}]', "entry 0, must have one label as text"),
    ],
)
def test_refuses_what_it_cannot_read(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_list(str(tmp_path / name))
    with pytest.raises(ValueError, match=r"cannot be read \(No such file"):
        read_list(str(tmp_path / "nowhere.csv"))


def test_label_table(tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text('index,mid,display_name\n1,/m/b,"B, c"\n0,/m/a,A\n')
    assert read_label_table(str(table)) == (["/m/a", "/m/b"], ["A", "B, c"])
    for text, message in (
        (
            "index,mid\n0,/m/a\n",
            "must have rows and the columns index, mid, display_name, got index, mid",
        ),
        (
            "index,mid,display_name\nx,/m/a,A\n",
            "must number its classes 0, 1, 2, …, and one index is not a number",
        ),
        ("index,mid,display_name\n0,/m/a,A\n2,/m/b,B\n", "an index is missing or a duplicate"),
    ):
        table.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_label_table(str(table))


def test_paths_of_a_list_stay_below_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By their words and by what they are on the disk, with a root that is itself a link."""
    outside, real = tmp_path / "secret", tmp_path / "real"
    outside.mkdir()
    (real / "in").mkdir(parents=True)
    (outside / "a.wav").touch()
    root = tmp_path / "link"
    root.symlink_to(real)
    (real / "in" / "a.wav").touch()
    (real / "in" / "b.wav").symlink_to("a.wav")
    (real / "out").symlink_to(outside)
    (real / "out.wav").symlink_to(outside / "a.wav")
    (real / "again").symlink_to(root / "in")
    inside = ["in/a.wav", "in/b.wav", "in/../in/a.wav", "again/a.wav", "not/there.wav", "..a.wav"]
    require_inside(root, [*inside, str(root / "in/a.wav"), str(real / "in/a.wav")], "list.csv")
    monkeypatch.chdir(tmp_path)
    require_inside("link", inside, "list.csv")
    require_inside(Path("."), ["secret/a.wav"], "list.csv")
    for path in (
        "../secret/a.wav", "in/../../secret/a.wav", "/etc/passwd", str(outside / "a.wav"),
        "out/a.wav", "out.wav", "..", "../real2/a.wav", str(tmp_path / "real.wav"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="`list.csv` names .*, which leads outside of `.*li"):
            require_inside(root, ["in/a.wav", path], "list.csv")


@pytest.mark.parametrize("kind", [AudioFolder, VideoFolder, ImageTags, CaptionedImages])
@pytest.mark.parametrize("where", ["files", "test_files"])
def test_every_source_refuses_lists_that_lead_outside(
    kind: type[Source], where: str, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    root.mkdir()
    options: dict[str, Any] = {"root": str(root)}
    if kind is AudioFolder:
        options |= {"mean": 0.0, "std": 1.0}
    if kind is ImageTags:
        options |= {"labels": ["cat"]}
    for folder in (root, tmp_path):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "a.png")
    lists = {}
    for name, path in (("good", "a.png"), ("bad", "../a.png")):
        lists[name] = str(tmp_path / f"{name}.csv")
        rows = {ImageTags: f"Path,cat\n{path},1\n", CaptionedImages: f"path,caption\n{path},a\n"}
        Path(lists[name]).write_text(rows.get(kind, f"path,label\n{path},cat\n"))
    if where == "files":
        options["files"] = lists["bad"]
    elif kind is CaptionedImages:
        pytest.skip("it has one list")
    else:
        options |= {"files": lists["good"], "test_files": lists["bad"]}
    with pytest.raises(ValueError, match="bad.csv` names '../a.png', which leads outside .* trust"):
        kind(**options)
    if kind is CaptionedImages:
        assert len(CaptionedImages(**options, allow_outside=True)) == 1
    else:
        file = Path(lists["bad"])
        file.write_text(file.read_text().replace("../a.png", str(tmp_path / "a.png")))
        with pytest.raises(ValueError, match="which leads outside"):
            kind(**options)
        (tmp_path / "good.csv").write_text(file.read_text())
        assert len(kind(**options | {"root": str(tmp_path)})) == 1
