"""Transfer: a detector or segmenter is trained on an encoder, and the same on the untrained one, and both are scored.

What features are worth for finding things shows at an equal budget: the same scenes in the same
order, the same network around the encoder, the same rates and seeds; only the encoder's weights
differ. The last weights are scored, never the best. Each run is finished once: started again with
the same directory, only what is missing is trained.
"""

import copy
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file

from mezzotint.data.detection.source import DetectionSource
from mezzotint.detection.localizer import Localizer, residual
from mezzotint.detection.recipes import DEFAULT, FAMILIES, read_transfer
from mezzotint.detection.training import put_back, score, train
from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.saving import load_encoder, save_encoder
from mezzotint.evaluation.probe import Row
from mezzotint.evaluation.results import Baselines, Evaluation, student, write_evaluation
from mezzotint.files import replacing, write_json, write_text
from mezzotint.recipe.schema import construct, resolve
from mezzotint.seeding import key_of
from mezzotint.train.rundir import RunDirectoryInUse, environment, locked

_PRETRAINED, _UNTRAINED = "pretrained", "untrained"
_HAS = {"masks": "masks of its objects", "classes": "a map of classes"}


@dataclass(frozen=True)
class Transfer:
    """What is to be done.

    Attributes:
        encoder: directory of a saved encoder, or of a run.
        config: of the recipe, resolved.
        seeds: how many runs; they differ in the fresh parts of the network, in order, flips and
            sampling.
        baseline: train the same from the untrained encoder.
    """

    encoder: Path
    config: dict[str, Any]
    seeds: int = 1
    baseline: bool = True


@dataclass(frozen=True)
class DetectionComparison:
    """Figures side by side.

    Attributes:
        lines: of the keys `figure`, `pretrained` and, with a baseline, `untrained` and
            `difference`, each but the first a list `[mean, low, high]`; the bounds are `None` for a
            single seed.
    """

    lines: list[dict[str, Any]]

    @property
    def text(self) -> str:
        """A table in Markdown."""
        names = [
            name for name in ("pretrained", "untrained", "difference") if name in self.lines[0]
        ]
        rows = [f"| figure | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
        for line in self.lines:
            rows.append(
                f"| {line['figure']} | {' | '.join(_shown(line[n], n == 'difference') for n in names)} |"
            )
        return "\n".join(rows)


def plan(
    encoder: str | Path,
    what: str | None = None,
    overrides: Sequence[str] = (),
    *,
    seeds: int = 1,
    baseline: bool = True,
) -> Transfer:
    """Read an encoder and a recipe, and see that they fit.

    Args:
        encoder: a run, or an encoder's directory; a residual network.
        what: name or file of a transfer recipe; or a folder in VOC or COCO format, which is learned
            as `voc07_c4` and `coco_c4` say.
        overrides: of the recipe, such as `training.steps=300`.
        seeds: see `Transfer`.
        baseline: see `Transfer`.

    Raises:
        ValueError: when there is no such encoder, recipe or data, or they do not fit.
    """
    if seeds < 1:
        raise ValueError(f"got seeds={seeds}; allowed is 1 or more: 3 give an interval")
    config = read_transfer(what or DEFAULT, overrides)
    residual(load_encoder(encoder), "transfer")
    _refuse_if_unfit(config)
    return Transfer(Path(encoder), config, seeds, baseline)


def _refuse_if_unfit(config: dict[str, Any]) -> None:
    scenes: DetectionSource = construct(config["data"], FAMILIES["data"], {})
    model = config["model"]
    needs = "classes" if model["kind"] == "deeplab_v3" else "masks" if model["masks"] else "boxes"
    if (needs == "masks" and not scenes.has_masks) or (
        needs == "classes" and not scenes.has_classes
    ):
        hint = (
            f"data.use={needs}"
            if config["data"]["kind"] == "voc_folder"
            else "data with segmentations"
        )
        raise ValueError(
            f"got {model['kind']}{' with masks' if needs == 'masks' else ''} on {scenes.name}, whose scenes are read "
            f"without {_HAS[needs]}; allowed is data with them: set {hint}, or learn boxes with model.kind=faster_rcnn "
            "model.masks=false"
        )


def run_transfer(what: Transfer, out: str | Path, *, progress: str = "bar") -> DetectionComparison:
    """Train, score, and write `evaluation.json`, `baselines.json` and `table.md`.

    Args:
        what: see `plan`.
        out: a directory; each run has its own in it, `pretrained-0` and so on.
        progress: `bar`, `quiet` or `json`.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    variants = (_PRETRAINED, _UNTRAINED) if what.baseline else (_PRETRAINED,)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in variants}
    rows: dict[str, list[Row]] = {name: [] for name in found}
    for seed in range(what.seeds):
        for variant in found:
            figures = _once(what, seed, variant, folder / f"{variant}-{seed}", progress)
            found[variant].append(figures)
            rows[variant] += _rows(what, seed, figures)
    write_evaluation(
        folder, Evaluation(rows[_PRETRAINED], ""), Baselines([], rows.get(_UNTRAINED, []))
    )
    comparison = compared(found[_PRETRAINED], found.get(_UNTRAINED))
    write_text(folder / "table.md", comparison.text + "\n")
    write_json(folder / "table.json", comparison.lines)
    return comparison


def compared(
    pretrained: Sequence[dict[str, float]], untrained: Sequence[dict[str, float]] | None
) -> DetectionComparison:
    """Means over seeds with 95 % intervals of Student, and the mean of the differences seed by seed."""
    lines = []
    for figure in pretrained[0]:
        own = [figures[figure] for figures in pretrained]
        line: dict[str, Any] = {"figure": figure, "pretrained": _interval(own)}
        if untrained is not None:
            beside = [figures[figure] for figures in untrained]
            line["untrained"] = _interval(beside)
            line["difference"] = _interval([a - b for a, b in zip(own, beside, strict=True)])
        lines.append(line)
    return DetectionComparison(lines)


def _interval(values: Sequence[float]) -> list[float | None]:
    mean = math.fsum(values) / len(values)
    if not math.isfinite(mean):
        return [None, None, None]
    half = student(values) if len(values) > 1 else None
    return [mean, None if half is None else mean - half, None if half is None else mean + half]


def _shown(triple: Sequence[float | None], signed: bool) -> str:
    sign = "+" if signed else ""
    if triple[0] is None:
        return "–"
    bounds = "" if triple[1] is None else f" ({triple[1]:{sign}.3f} – {triple[2]:{sign}.3f})"
    return f"{triple[0]:{sign}.3f}{bounds}"


def build(what: Transfer, seed: int, variant: str, scenes: DetectionSource) -> Localizer:
    """The network of one run, before training; what is fresh in it is the same for both variants of a seed."""
    with torch.random.fork_rng(devices=[]):
        encoder: Encoder = load_encoder(what.encoder)
        if variant == _UNTRAINED:
            torch.manual_seed(key_of("untrained", seed))
            config = {
                key: value for key, value in encoder.config.items() if key != "pretrained_path"
            }
            encoder = construct(
                resolve(config, "Encoder", "encoder"), "Encoder", {"Encoder": (encoder.input,)}
            )
        torch.manual_seed(key_of("heads", seed))
        made: Localizer = construct(
            what.config["model"], FAMILIES["model"], {"Localizer": (encoder, len(scenes.classes))}
        )
    return made


def _once(what: Transfer, seed: int, variant: str, place: Path, progress: str) -> dict[str, float]:
    """One run: read when it is finished, and gone on with when it is not."""
    config = copy.deepcopy(what.config) | {
        "seed": seed,
        "encoder": str(what.encoder),
        "start": variant,
    }
    place.mkdir(parents=True, exist_ok=True)
    written, result = place / "transfer.yaml", place / "figures.json"
    text = yaml.safe_dump(config, sort_keys=False)
    if written.is_file() and written.read_text(encoding="utf-8") != text:
        raise RunDirectoryInUse(
            f"got --out {place.parent}, where {place.name} holds a run of another recipe or encoder; allowed is a new "
            "directory: choose another --out"
        )
    if result.is_file():
        known: dict[str, float] = json.loads(result.read_text(encoding="utf-8"))
        return {name: math.nan if value is None else value for name, value in known.items()}
    with locked(place):
        write_text(written, text)
        parts = {n: construct(config[n], FAMILIES[n], {}) for n in FAMILIES if n != "model"}
        scenes, training = parts["data"], parts["training"]
        network = build(what, seed, variant, scenes)
        train(
            network, scenes, parts["optimizer"], parts["schedule"], training, place, seed=seed, progress=progress
        )  # fmt: skip
        scores = score(network, scenes, training)
        with replacing(place / "network.safetensors") as temporary:
            save_file(
                {name: t.detach().cpu().contiguous() for name, t in network.own_tensors().items()},
                temporary,
            )
        save_encoder(
            network.encoder, place / "encoder", {"transferred_to": scenes.name, "start": variant}
        )
        write_json(place / "environment.json", environment(training.torch_device().type))
        write_json(place / "by_class.json", [_plain(line) for line in scores.by_class])
        write_json(result, _plain(scores.figures))
    return scores.figures


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON has it: `None` for NaN."""
    return {
        key: None if isinstance(v, float) and not math.isfinite(v) else v
        for key, v in values.items()
    }


def trained_localizer(place: str | Path) -> tuple[Localizer, DetectionSource]:
    """The network of a finished run, in eval mode, and its data.

    Args:
        place: a directory that `run_transfer` wrote, such as `runs/transfer-demo/pretrained-0`.

    Raises:
        ValueError: when the run is not finished, or its data is not where it was.
    """
    folder = Path(place)
    if not (folder / "network.safetensors").is_file():
        raise ValueError(
            f"got {folder}, which holds no finished transfer; allowed is OUT/pretrained-0 and the like"
        )
    config = yaml.safe_load((folder / "transfer.yaml").read_text(encoding="utf-8"))
    scenes: DetectionSource = construct(config["data"], FAMILIES["data"], {})
    with torch.random.fork_rng(devices=[]):
        injected = {"Localizer": (load_encoder(folder / "encoder"), len(scenes.classes))}
        network: Localizer = construct(config["model"], FAMILIES["model"], injected)
    put_back(network, load_file(folder / "network.safetensors"))
    return network.eval(), scenes


def _rows(what: Transfer, seed: int, figures: dict[str, float]) -> list[Row]:
    scenes, training, optimizer = (what.config[name] for name in ("data", "training", "optimizer"))
    model = what.config["model"]
    how = (
        f"transfer/1 {model['kind']} {model.get('neck', '')} steps={training['steps']} batch={training['batch_size']} "
        f"optimizer={optimizer['kind']} lr={optimizer['lr']:g} norm={model['norm']} select=last"
    )
    name = str(scenes.get("root") or scenes["kind"])
    probe = str(model["kind"])
    return [
        Row(probe=probe, metric=f"{Path(name).name}/{k}", value=v, protocol=how, seed=seed)
        for k, v in figures.items()
    ]
