"""`report.html` of a transfer to detection or segmentation: results, by class, and example images.

The results are those that the runs wrote when they were scored. Only the pictures are predicted
again, by the saved networks, on random test images (chosen by a fixed key).
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from mezzotint.data.detection.source import DetectionSample, DetectionSource
from mezzotint.detection.average_precision import Detections
from mezzotint.detection.detection import trained_model
from mezzotint.detection.model import DetectionModel
from mezzotint.detection.training import image_of
from mezzotint.evaluation.results import signed
from mezzotint.files import read_json
from mezzotint.recipe.reading import read_yaml
from mezzotint.report.detection_pictures import found_picture, map_picture, true_picture
from mezzotint.report.plots import charts_of_runs
from mezzotint.report.render import render, write_page
from mezzotint.seeding import sample_order
from mezzotint.train.log import read_metrics
from mezzotint.types import Unreadable

_MODELS = {"faster_rcnn": "Faster R-CNN", "deeplab_v3": "DeepLabV3"}
_STARTS = ("pretrained", "untrained")
_MAIN = ("boxes/AP50", "classes/mIoU")


def is_transfer(folder: Path | str) -> bool:
    """Return whether a directory holds a finished `mezzotint transfer`."""
    return (Path(folder) / "table.json").is_file() and (
        Path(folder) / "pretrained-0" / "transfer.yaml"
    ).is_file()


def write_transfer_report(out: Path | str, *, examples: int = 8) -> Path:
    """Write `OUT/report.html`.

    Args:
        out: directory of a transfer.
        examples: number of test images to show, with the predictions of the first seed.

    Raises:
        ValueError: when there is no such directory, or the transfer is not finished.
    """
    folder = Path(out)
    if not is_transfer(folder):
        raise ValueError(
            f"`{folder}` has no finished transfer. It must be a directory written by `mezzotint "
            "transfer`. Run it again with the same --out to continue it."
        )
    lines = read_json(folder / "table.json")
    runs = {
        start: sorted(folder.glob(f"{start}-*"), key=lambda p: int(p.name.rpartition("-")[2]))
        for start in _STARTS
    }
    first = runs["pretrained"][0]
    config = read_yaml(first / "transfer.yaml")
    section: dict[str, Any] = _results(lines, len(runs["pretrained"])) | _classes(runs)
    section["examples"], section["legend"], warning = _examples(
        [paths[0] for paths in runs.values() if paths], examples
    )
    main, rest = charts_of_runs(
        {
            path.name: read_metrics(path / "metrics.jsonl")
            for paths in runs.values()
            for path in paths
        }
    )
    how = "The final weights are scored; nothing is chosen on the test images."
    page = render(
        title=folder.resolve().name,
        hero=_hero(folder, lines, config, warning),
        transfer=section,
        curves={"how": how, "main": main, "rest": rest},
        reproduce=_reproduce(first),
        data={"charts": [chart.points for chart in (*main, *rest)]},
    )
    return write_page(folder / "report.html", page)


def _hero(
    folder: Path, lines: Sequence[dict[str, Any]], config: dict[str, Any], warning: str
) -> dict[str, Any]:
    main = next((line for line in lines if line["metric"] in _MAIN), lines[0])
    own, baseline = main["pretrained"][0], main.get("untrained", [None])[0]
    lead = [
        (f"{_model(config)} with this encoder reaches {main['metric'].replace('/', ' ')} ", False)
    ]
    lead.append((_or_dash(own), True))
    lead.append(
        (
            f"; with random weights {_or_dash(baseline)}." if "untrained" in main else ".",
            False,
        )
    )
    verdicts = [_verdict(main)] if "difference" in main else []
    training, data = config["training"], config["data"]
    facts = [
        ("steps", f"{training['steps']:,}"),
        ("batch size", str(training["batch_size"])),
        ("learning rate", f"{config['optimizer']['lr']:g}"),
        ("data", Path(str(data.get("root") or data["kind"])).name),
        ("seeds", str(len(list(folder.glob("pretrained-*"))))),
    ]
    return {
        "run": folder.resolve().name, "lead": lead, "warns": False, "facts": facts, "plate": None,
        "verdicts": [*verdicts, *([(warning, True)] if warning else [])],
    }  # fmt: skip


def _model(config: dict[str, Any]) -> str:
    model = config["model"]
    name = "Mask R-CNN" if model.get("masks") else _MODELS.get(model["kind"], model["kind"])
    return f"{name} {model['neck'].upper()}" if "neck" in model else name


def _verdict(line: dict[str, Any]) -> tuple[str, bool]:
    """Say what pretraining gains, and whether that is a warning."""
    mean, low, high = line["difference"]
    if mean is None:
        return "The test images have no objects.", True
    words = f"Pretraining gains {signed(mean)}"
    if low is None:
        return f"{words} (a single seed, without an interval).", mean <= 0
    significant = low > 0 or high < 0
    return (
        f"{words}; the 95 % interval over seeds {'excludes' if significant else 'includes'} zero.",
        mean <= 0 or not significant,
    )


def _results(lines: Sequence[dict[str, Any]], seeds: int) -> dict[str, Any]:
    columns = [name for name in (*_STARTS, "difference") if name in lines[0]]
    shown = [
        {"metric": line["metric"], "cells": [_cell(name, line[name]) for name in columns]}
        for line in lines
    ]
    over = "One seed" if seeds == 1 else f"Means over {seeds} seeds, with Student's 95 % interval"
    how = f"{over}. AP is COCO's, over IoU thresholds from 0.5 to 0.95."
    if "untrained" in columns:
        how += (
            " The baseline is the same network with random weights and the same training: budget, "
            "images, order and learning rates."
        )
    return {"columns": columns, "lines": shown, "how": how, "intervals": seeds > 1}


def _cell(name: str, triple: Sequence[float | None]) -> tuple[str, str, bool]:
    mean, low, high = triple
    write = _signed if name == "difference" else _or_dash
    bounds = "–" if low is None or high is None else f"{write(low)} – {write(high)}"
    return write(mean), bounds, name == "difference" and low is not None and low > 0


def _or_dash(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _signed(value: float | None) -> str:
    return signed(math.nan if value is None else value)


def _classes(runs: dict[str, list[Path]]) -> dict[str, Any]:
    """Prepare the table of classes; it is empty if a run has no results by class."""
    by_class = {
        start: [_by_class(path) for path in paths] for start, paths in runs.items() if paths
    }
    if not all(all(lines) for lines in by_class.values()):
        return {"classes": [], "by_class": [], "counted": ""}
    first = by_class["pretrained"][0]
    metrics = [key for key in first[0] if key.endswith(("AP", "AP50", "IoU"))]
    rows = []
    for index, line in enumerate(first):
        means = [
            {
                start: _mean([seed[index][metric] for seed in seeds])
                for start, seeds in by_class.items()
            }
            for metric in metrics
        ]
        values = []
        for mean in means:
            values += [_or_dash(value) for value in mean.values()]
            if len(mean) == 2:
                own, baseline = mean.values()
                values.append("–" if own is None or baseline is None else signed(own - baseline))
        rows.append({"name": line["class"], "count": f"{line['objects']:,}", "cells": values})
    what = "pixels" if metrics == ["classes/IoU"] else "objects"
    return {
        "classes": rows,
        "by_class": metrics,
        "counted": f"Count: {what} of the class in the test images.",
    }


def _by_class(run: Path) -> list[dict[str, Any]]:
    path = run / "by_class.json"
    lines: list[dict[str, Any]] = read_json(path) if path.is_file() else []
    return lines


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if len(known) == len(values) else None


def _readable(data: DetectionSource, indices: Sequence[int]) -> Iterator[DetectionSample]:
    """Yield test images; unreadable ones are left out."""
    for index in indices:
        with suppress(Unreadable):
            yield data.read("test", index)


def _examples(runs: Sequence[Path], count: int) -> tuple[list[dict[str, Any]], str, str]:
    """Draw test images with predictions; return them, a legend, and a warning if there are none."""
    try:
        opened = {path.name.rpartition("-")[0]: trained_model(path) for path in runs}
        data = next(iter(opened.values()))[1]
        chosen = sample_order(data.count("test"), 0, 0, stop=count).tolist()
        names = data.classes
        networks = {name: network for name, (network, _) in opened.items()}
        shown = [_example(sample, networks, names) for sample in _readable(data, chosen)]
    except (ValueError, OSError) as error:
        return (
            [],
            "",
            f"There are no pictures, because the data or the networks cannot be opened: {error}",
        )
    if next(iter(opened.values()))[0].needs == "classes":
        return shown, "Each class has its own color; the background is not colored.", ""
    return shown, (
        "The predictions with the highest scores, as many as there are objects. Green: correct "
        "class and an IoU of at least 0.5. Red: all others."
    ), ""  # fmt: skip


@torch.no_grad()
def _example(
    sample: DetectionSample, networks: dict[str, DetectionModel], names: Sequence[str]
) -> dict[str, Any]:
    needs = next(iter(networks.values())).needs
    if needs == "classes":
        assert sample.classes is not None
        pictures = [(map_picture(sample, sample.classes, "ground truth")[0], "ground truth", "")]
    else:
        pictures = [(true_picture(sample, names, masks=needs == "masks"), "ground truth", "")]
    for start, network in networks.items():
        (found,) = network.predict([image_of(sample, torch.device("cpu"))])
        made = (
            found_picture(sample, found, names)
            if isinstance(found, Detections)
            else map_picture(sample, found, start)
        )
        pictures.append((made[0], start, made[1]))
    return {"name": sample.id, "pictures": pictures}


def _reproduce(run: Path) -> dict[str, Any]:
    environment = read_json(run / "environment.json")
    return {
        "cost": [], "unreadable": [], "command": environment.pop("command", ""),
        "environment": [(key, str(value)) for key, value in environment.items()],
        "recipe": (run / "transfer.yaml").read_text(encoding="utf-8"),
    }  # fmt: skip
