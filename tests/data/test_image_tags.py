"""Images with findings from tables: values, train and test table, the task, bad tables."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mezzotint.data.image_tags import CHEXPERT, ImageTags
from mezzotint.data.source import Source
from mezzotint.evaluation.features import raw_features
from mezzotint.evaluation.linear import Linear
from mezzotint.evaluation.suite import measure

HEADER = "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding," + ",".join(CHEXPERT)


def table(root: Path, name: str, rows: list[str]) -> str:
    lines = [HEADER]
    for number, values in enumerate(rows):
        path = f"CheXpert-v1.0/{name}/patient{number}/study1/view1_frontal.png"
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        bright = 220 if values.startswith("1") else 30
        Image.fromarray(np.full((40, 48), bright + number, np.uint8)).save(root / path)
        lines.append(f"{path},Female,60,Frontal,AP,,{values}")
    (root / f"{name}.csv").write_text("\n".join(lines) + "\n")
    return str(root / f"{name}.csv")


def test_values_paths_and_what_uncertain_counts_as(tmp_path: Path) -> None:
    files = table(tmp_path, "train", ["1.0,0.0,,-1.0,1", ",,,,"])
    source = ImageTags(root=str(tmp_path), files=files, size=16)
    assert isinstance(source, Source) and source.croppable and source.classes == list(CHEXPERT)
    assert source.tags.tolist() == [[True, False, False, False, True], [False] * 5]
    sample = source.read(0)
    assert (
        sample["x"].shape == (3, 16, 16)
        and int(sample["x"].min()) == 220
        and sample["label"] is None
    )
    assert source.id_of(1).endswith("patient1/study1/view1_frontal.png")
    sure = ImageTags(
        root=str(tmp_path), files=files, size=16, uncertain="yes", labels=["Edema", "Consolidation"]
    )
    assert sure.tags.tolist() == [[True, False], [False, False]]


def test_the_second_table_is_scored_and_never_pretrained_on(tmp_path: Path) -> None:
    rows = ["1,0,0,0,1", "0,1,0,0,1", "1,1,1,0,0", "0,0,1,1,0"] * 4
    train, test = table(tmp_path, "train", rows), table(tmp_path, "valid", rows[:8])
    source = ImageTags(root=str(tmp_path), files=train, test_files=test, size=16)
    both, (task,) = source.evaluation()
    assert (len(source), len(both), task.name, task.kind) == (16, 24, "finding/test", "tag")
    assert task.train.tolist() == list(range(16)) and task.test.tolist() == list(range(16, 24))
    assert both.read(16)["id"].startswith("CheXpert-v1.0/valid/") and task.labels[17].tolist() == [
        False, True, False, False, True,
    ]  # fmt: skip
    samples, tasks = source.evaluation()
    rows_found = list(measure(raw_features(samples), tasks, [Linear()], 1))
    value = {row.metric: row.value for row in rows_found}
    assert 0.0 < value["finding/test/map"] <= 1.0 and 0.5 < value["finding/test/auc"] <= 1.0
    _, (task,) = ImageTags(root=str(tmp_path), files=train, size=16, holdout=0.25).evaluation()
    assert (
        task.name == "finding/holdout"
        and len(task.test) == 4
        and not set(task.test) & set(task.train)
    )
    assert torch.is_tensor(source.read(3)["x"])


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"files": "none.csv"}, "none.csv` cannot be read .*It must be a table"),
        ({"path": "file"}, "has no column 'file', only Path, Sex.*Name the column"),
        ({"labels": ["Pneumonia"]}, "has no column 'Pneumonia', only Path"),
        (
            {"labels": ["Age"]},
            "line 2, must have a path, and 1, 0, -1 or nothing for each label, got Age='60'",
        ),
        ({"labels": []}, r"got uncertain='no' and labels=\[\]. Correct"),
        ({"size": 0}, r"got size=0"),
    ],
)
def test_a_wrong_table_is_named(keywords: dict[str, Any], message: str, tmp_path: Path) -> None:
    files = table(tmp_path, "train", ["1,0,0,0,1"])
    with pytest.raises(ValueError, match=message):
        ImageTags(**{"root": str(tmp_path), "files": files, **keywords})
