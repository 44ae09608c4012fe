"""The page of a transfer: results equal those of the runs, pictures count correct predictions."""

import json
import re
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from mezzotint.cli import app
from mezzotint.data.detection.embedded import Pasted
from mezzotint.detection.average_precision import Detections
from mezzotint.detection.detection import trained_model
from mezzotint.encoders.resnet import resnet8
from mezzotint.encoders.saving import save_encoder
from mezzotint.report.transfer import is_transfer, write_transfer_report
from mezzotint.types import Input

TINY = [
    "data.images=4", "data.test_images=2", "data.size=48", "data.scale=[16,24]", "training.steps=1",
    "training.batch_size=2", "training.precise_bn_batches=1", "--quiet",
]  # fmt: skip
SMALL = [
    "model.proposals=[20,10]", "model.samples=8", "model.min_size=[48]", "model.max_size=48",
    "model.channels=8", "model.anchors=[16,24]",
]  # fmt: skip


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    made = resnet8(Input((3, 32, 32), (0.5,) * 3, (0.25,) * 3), stem="patch", width=4)
    return save_encoder(made, tmp_path_factory.mktemp("encoder") / "e")


@pytest.fixture(scope="module")
def masks(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("masks") / "out"
    arguments = [
        "transfer",
        str(encoder),
        "pasted_mask",
        *TINY,
        *SMALL,
        "--seeds",
        "2",
        "--out",
        str(out),
    ]
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
    return out


def rows(page: str, section: str) -> dict[str, list[str]]:
    """The cells of a section's table, by the first of each row."""
    part = page[page.index(f'<section id="{section}">') :]
    part = part[: part.index("</table>")]
    found = re.findall(r"<tr><td class=\"name\">(.*?)</td>(.*?)</tr>", part, re.S)
    return {
        name: re.findall(r"<td[^>]*>(?:<b>)?(.*?)(?:</b>)?</td>", cells) for name, cells in found
    }


def test_the_command_writes_the_figures_of_its_runs(masks: Path) -> None:
    page = (masks / "report.html").read_text()
    for line in json.loads((masks / "table.json").read_text()):
        cells = rows(page, "results")[line["metric"]]
        assert len(cells) == 6 and cells[0] == f"{line['pretrained'][0]:.3f}"
        assert cells[4].replace("−", "-") == f"{line['difference'][0]:+.3f}"
    classes = rows(page, "classes")
    assert len(classes) == 10 and {len(cells) for cells in classes.values()} == {1 + 4 * 3}
    source = Pasted(images=4, test_images=2, size=48, scale=(16, 24))
    seen = torch.cat([source.read("test", i).labels for i in range(2)]).bincount(minlength=10)
    assert [int(cells[0]) for cells in classes.values()] == seen.tolist()
    assert (
        page.count("data:image/") == 2 * 3
        and "Mask R-CNN C4" in page
        and "kind: faster_rcnn" in page
    )
    assert {f"Loss, {start}-0" for start in ("pretrained", "untrained")} <= set(
        re.findall(r"<h3>(.*?)</h3>", page)
    )
    assert not re.search(r'(src|href)="(?!data:|#)', page)


def test_means_of_classes_are_the_figure(masks: Path) -> None:
    run = masks / "pretrained-1"
    lines, metrics = (
        json.loads((run / name).read_text()) for name in ("by_class.json", "metrics.json")
    )
    for metric, value in metrics.items():
        known = [line[metric] for line in lines if line[metric] is not None]
        assert value == pytest.approx(sum(known) / len(known))
        assert all((line[metric] is None) == (line["objects"] == 0) for line in lines)


def test_a_saved_network_finds_what_it_found(masks: Path) -> None:
    (first, source), (second, _) = (trained_model(masks / "untrained-0") for _ in range(2))
    image = source.read("test", 0).image.float() / 255.0
    with torch.no_grad():
        one, other = first.predict([image])[0], second.predict([image])[0]
    assert isinstance(one, Detections) and isinstance(other, Detections) and not first.training
    assert torch.equal(one.boxes, other.boxes) and torch.equal(one.scores, other.scores)
    with pytest.raises(
        ValueError, match="is not a finished transfer. Give a directory such as OUT/pretrained-0"
    ):
        trained_model(masks)


def test_segmentation_and_no_baseline(encoder: Path, tmp_path: Path) -> None:
    arguments = [
        "transfer",
        str(encoder),
        "pasted_deeplab",
        *TINY,
        "--no-baseline",
        "--out",
        str(tmp_path / "o"),
    ]
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
    page = (tmp_path / "o" / "report.html").read_text()
    assert "DeepLabV3 with this encoder reaches" in page and "random weights" not in page
    assert "background" in rows(page, "classes") and page.count("data:image/") == 2 * 2
    first = (tmp_path / "o" / "report.html").stat().st_mtime_ns
    done = CliRunner().invoke(app, ["report", str(tmp_path / "o")], catch_exceptions=False)
    assert done.exit_code == 0 and (tmp_path / "o" / "report.html").stat().st_mtime_ns > first
    (tmp_path / "o" / "pretrained-0" / "network.safetensors").unlink()
    page = write_transfer_report(tmp_path / "o").read_text()
    assert "There are no pictures" in page and "data:image/" not in page


def test_what_is_no_transfer_is_refused(tmp_path: Path) -> None:
    assert not is_transfer(tmp_path)
    with pytest.raises(
        ValueError, match="has no finished transfer.*Run it again with the same --out"
    ):
        write_transfer_report(tmp_path)


# ---------------------------------------------------------------------- pictures
