"""`report.html` of a transfer: figures with and without pretraining, class by class, and what was found in scenes.

The figures are those that the runs wrote when they were scored. Only the pictures are made anew,
from the saved networks, on scored scenes that a fixed key chooses: neither by success nor by what
is in them.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from mezzotint.data.detection.source import DetectionSample
from mezzotint.detection.average_precision import Found
from mezzotint.detection.detection import trained_localizer
from mezzotint.detection.localizer import Localizer
from mezzotint.detection.training import image_of
from mezzotint.evaluation.results import signed
from mezzotint.report.plots import charts_of_runs
from mezzotint.report.render import render, write_page
from mezzotint.report.scene_pictures import found_picture, map_picture, true_picture
from mezzotint.seeding import sample_order
from mezzotint.train.log import read_metrics

_MODELS = {"faster_rcnn": "Faster R-CNN", "deeplab_v3": "DeepLabV3"}
_STARTS = ("pretrained", "untrained")
_MAIN = ("boxes/AP50", "classes/mIoU")


def is_transfer(folder: Path | str) -> bool:
    """Whether a directory is one that `mezzotint transfer` wrote and finished."""
    return (Path(folder) / "table.json").is_file() and (
        Path(folder) / "pretrained-0" / "transfer.yaml"
    ).is_file()


def write_transfer_report(out: Path | str, *, scenes: int = 8) -> Path:
    """Write `OUT/report.html`.

    Args:
        out: the directory of a transfer.
        scenes: how many scored scenes are shown, of the first seed.

    Raises:
        ValueError: when the directory is none, or the transfer is not finished.
    """
    folder = Path(out)
    if not is_transfer(folder):
        raise ValueError(
            f"got {folder}, which holds no finished transfer; allowed is a directory that `mezzotint transfer` wrote: "
            "run it again with the same --out, and it goes on"
        )
    lines = json.loads((folder / "table.json").read_text(encoding="utf-8"))
    runs = {
        start: sorted(folder.glob(f"{start}-*"), key=lambda p: int(p.name.rpartition("-")[2]))
        for start in _STARTS
    }
    first = runs["pretrained"][0]
    config = yaml.safe_load((first / "transfer.yaml").read_text(encoding="utf-8"))
    section: dict[str, Any] = _figures(lines, len(runs["pretrained"])) | _classes(runs)
    section["scenes"], section["legend"], warning = _scenes(
        [paths[0] for paths in runs.values() if paths], scenes
    )
    main, rest = charts_of_runs(
        {
            path.name: read_metrics(path / "metrics.jsonl")
            for paths in runs.values()
            for path in paths
        }
    )
    how = "The last weights are scored; nothing is chosen on the scored scenes."
    page = render(
        title=folder.resolve().name,
        hero=_hero(folder, lines, config, warning),
        transfer=section,
        curves={"how": how, "main": main, "rest": rest},
        making=_making(first),
        data={"charts": [chart.points for chart in (*main, *rest)]},
    )
    return write_page(folder / "report.html", page)


def _hero(
    folder: Path, lines: Sequence[dict[str, Any]], config: dict[str, Any], warning: str
) -> dict[str, Any]:
    main = next((line for line in lines if line["figure"] in _MAIN), lines[0])
    own, beside = main["pretrained"][0], main.get("untrained", [None])[0]
    lead = [
        (f"{_model(config)} from the encoder reaches {main['figure'].replace('/', ' ')} ", False)
    ]
    lead.append((_or_dash(own), True))
    lead.append(
        (f"; from fresh weights {_or_dash(beside)}." if "untrained" in main else ".", False)
    )
    verdicts = [_verdict(main)] if "difference" in main else []
    training, data = config["training"], config["data"]
    facts = [
        ("steps", f"{training['steps']:,}"),
        ("images a step", str(training["batch_size"])),
        ("learning rate", f"{config['optimizer']['lr']:g}"),
        ("data", Path(str(data.get("root") or data["kind"])).name),
        ("seeds", str(len(list(folder.glob("pretrained-*"))))),
    ]
    return {
        "run": folder.resolve().name, "lead": lead, "facts": facts, "plate": None,
        "verdicts": [*verdicts, *([(warning, True)] if warning else [])],
    }  # fmt: skip


def _model(config: dict[str, Any]) -> str:
    model = config["model"]
    name = "Mask R-CNN" if model.get("masks") else _MODELS.get(model["kind"], model["kind"])
    return f"{name} {model['neck'].upper()}" if "neck" in model else name


def _verdict(line: dict[str, Any]) -> tuple[str, bool]:
    """What pretraining is worth, and whether that is a warning."""
    mean, low, high = line["difference"]
    if mean is None:
        return "There was nothing to be found.", True
    words = f"Pretraining is worth {signed(mean)}"
    if low is None:
        return f"{words}, by a single seed, which gives no interval.", mean <= 0
    sure = low > 0 or high < 0
    return (
        f"{words}, {'beyond' if sure else 'within'} the 95 % interval over seeds.",
        mean <= 0 or not sure,
    )


def _figures(lines: Sequence[dict[str, Any]], seeds: int) -> dict[str, Any]:
    columns = [name for name in (*_STARTS, "difference") if name in lines[0]]
    shown = [
        {"figure": line["figure"], "cells": [_cell(name, line[name]) for name in columns]}
        for line in lines
    ]
    over = (
        "Of one seed"
        if seeds == 1
        else f"Means over {seeds} seeds, with Student's interval over them"
    )
    how = f"{over}. AP is COCO's, over overlaps from 0.5 to 0.95."
    if "untrained" in columns:
        how += " The baseline is the same network from fresh weights, at the same budget, scenes, order and rates."
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
    """The table of classes; without rows where a run has none."""
    found = {start: [_by_class(path) for path in paths] for start, paths in runs.items() if paths}
    if not all(all(lines) for lines in found.values()):
        return {"classes": [], "by_class": [], "counted": ""}
    first = found["pretrained"][0]
    figures = [key for key in first[0] if key.endswith(("AP", "AP50", "IoU"))]
    rows = []
    for place, line in enumerate(first):
        means = [{start: _mean([seed[place][figure] for seed in seeds]) for start, seeds in found.items()}
                 for figure in figures]  # fmt: skip
        values = []
        for mean in means:
            values += [_or_dash(value) for value in mean.values()]
            if len(mean) == 2:
                own, beside = mean.values()
                values.append("–" if own is None or beside is None else signed(own - beside))
        rows.append({"name": line["class"], "count": f"{line['objects']:,}", "cells": values})
    what = "pixels" if figures == ["classes/IoU"] else "objects"
    return {
        "classes": rows,
        "by_class": figures,
        "counted": f"There: {what} of the class in scored scenes.",
    }


def _by_class(place: Path) -> list[dict[str, Any]]:
    path = place / "by_class.json"
    lines: list[dict[str, Any]] = (
        json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    )
    return lines


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if len(known) == len(values) else None


def _scenes(places: Sequence[Path], count: int) -> tuple[list[dict[str, Any]], str, str]:
    """Pictures of scored scenes, what they show, and a warning where there are none."""
    try:
        opened = {path.name.rpartition("-")[0]: trained_localizer(path) for path in places}
        data = next(iter(opened.values()))[1]
        chosen = sample_order(data.count("test"), 0, 0)[:count].tolist()
        names = data.classes
        shown = [
            _scene(data.read("test", i), {s: network for s, (network, _) in opened.items()}, names)
            for i in chosen
        ]
    except (ValueError, OSError) as error:
        return (
            [],
            "",
            f"The scenes or the networks could not be opened, so there are no pictures: {error}",
        )
    if next(iter(opened.values()))[0].needs == "classes":
        return shown, "Each class has its color; what belongs to none is not painted.", ""
    return shown, (
        "As many boxes as there are objects, the surest first, with their scores. Green is right: the class, and an "
        "overlap of half or more; red is not."
    ), ""  # fmt: skip


@torch.no_grad()
def _scene(
    scene: DetectionSample, networks: dict[str, Localizer], names: Sequence[str]
) -> dict[str, Any]:
    needs = next(iter(networks.values())).needs
    if needs == "classes":
        assert scene.classes is not None
        pictures = [(map_picture(scene, scene.classes, "true")[0], "true", "")]
    else:
        pictures = [(true_picture(scene, names, masks=needs == "masks"), "true", "")]
    for start, network in networks.items():
        (found,) = network.find([image_of(scene, torch.device("cpu"))])
        made = (
            found_picture(scene, found, names)
            if isinstance(found, Found)
            else map_picture(scene, found, start)
        )
        pictures.append((made[0], start, made[1]))
    return {"name": scene.id, "pictures": pictures}


def _making(place: Path) -> dict[str, Any]:
    environment = json.loads((place / "environment.json").read_text(encoding="utf-8"))
    return {
        "cost": [], "unreadable": [], "command": environment.pop("command", ""),
        "environment": [(key, str(value)) for key, value in environment.items()],
        "recipe": (place / "transfer.yaml").read_text(encoding="utf-8"),
    }  # fmt: skip
