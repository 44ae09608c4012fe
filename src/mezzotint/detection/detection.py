"""Transfer: train a detector or segmenter on a pretrained and on an untrained encoder, and compare.

The comparison is at an equal budget: the same images in the same order, the same network around
the encoder, the same learning rates and seeds; only the encoder's weights differ. The last weights
are evaluated, never the best. A second call with the same directory trains only what is missing.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from mezzotint.data.detection.source import DetectionSource
from mezzotint.detection.model import DetectionModel, require_resnet
from mezzotint.detection.recipes import DEFAULT, FAMILIES, read_transfer
from mezzotint.detection.training import load_tensors, score, train
from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.saving import load_encoder, save_encoder
from mezzotint.evaluation.probe import Row
from mezzotint.evaluation.protocol import Protocol
from mezzotint.evaluation.results import Baselines, Evaluation, student, write_evaluation
from mezzotint.files import read_json, replacing, write_json, write_text
from mezzotint.recipe.reading import dump_yaml, read_yaml
from mezzotint.recipe.schema import construct, resolve
from mezzotint.seeding import key_of
from mezzotint.train.rundir import RunDirectoryInUse, environment, locked

_PRETRAINED, _UNTRAINED = "pretrained", "untrained"
_NEEDED = {"masks": "masks of objects", "classes": "class maps"}


@dataclass(frozen=True)
class Transfer:
    """Plan of a transfer.

    Attributes:
        encoder: directory of a saved encoder, or of a run.
        config: resolved recipe.
        seeds: number of runs; they differ in the new parts of the network, in order, flips and
            sampling.
        baseline: whether the same is trained from the untrained encoder.
    """

    encoder: Path
    config: dict[str, Any]
    seeds: int = 1
    baseline: bool = True


@dataclass(frozen=True)
class DetectionComparison:
    """Metrics of pretrained and untrained encoder.

    Attributes:
        lines: one mapping per metric with the keys `metric`, `pretrained` and, with a baseline,
            `untrained` and `difference`; values are `[mean, low, high]`, with bounds of `None` for
            a single seed.
        unreadable: the reason for each image that could not be read, and was left out.
    """

    lines: list[dict[str, Any]]
    unreadable: Mapping[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """Format the comparison as a Markdown table."""
        names = [
            name for name in ("pretrained", "untrained", "difference") if name in self.lines[0]
        ]
        rows = [f"| metric | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
        for line in self.lines:
            cells = (_shown(line[name], name == "difference") for name in names)
            rows.append(f"| {line['metric']} | {' | '.join(cells)} |")
        if self.unreadable:
            some = "; ".join(f"{name}: {why}" for name, why in list(self.unreadable.items())[:3])
            rows += ["", f"{len(self.unreadable)} images were left out, unreadable: {some}"]
        return "\n".join(rows)


def plan(
    encoder: str | Path,
    what: str | None = None,
    overrides: Sequence[str] = (),
    *,
    seeds: int = 1,
    baseline: bool = True,
) -> Transfer:
    """Read an encoder and a recipe, and check that they fit.

    Args:
        encoder: run, or directory of an encoder; a ResNet.
        what: name or file of a transfer recipe; or a folder in VOC or COCO format, which is trained
            on with the recipe `voc07_c4` or `coco_c4`.
        overrides: changes of the recipe, such as `training.steps=300`.
        seeds: see `Transfer`.
        baseline: see `Transfer`.

    Raises:
        ValueError: for a missing encoder, recipe or data, or data that the model cannot use.
    """
    if seeds < 1:
        raise ValueError(f"`--seeds` must be at least 1, got {seeds}. 3 give an interval.")
    config = read_transfer(what or DEFAULT, overrides)
    loaded = load_encoder(encoder)
    require_resnet(loaded, "transfer")
    if loaded.input.shape[0] != 3:
        raise ValueError(
            f"`{encoder}` takes images of {loaded.input.shape[0]} channel(s), and transfer trains "
            "on color images. Pretrain an encoder on images of 3 channels."
        )
    _refuse_if_unfit(config)
    return Transfer(Path(encoder), config, seeds, baseline)


def _refuse_if_unfit(config: dict[str, Any]) -> None:
    source: DetectionSource = construct(config["data"], FAMILIES["data"], {})
    model = config["model"]
    needs = "classes" if model["kind"] == "deeplab_v3" else "masks" if model["masks"] else "boxes"
    if (needs == "masks" and not source.has_masks) or (
        needs == "classes" and not source.has_classes
    ):
        hint = (
            f"data.segmentation={needs}"
            if config["data"]["kind"] == "voc_folder"
            else "`data` to a source with segmentations"
        )
        raise ValueError(
            f"`{source.name}` is read without {_NEEDED[needs]}, which {model['kind']} needs. Set "
            f"{hint}, or "
            "train on boxes with model.kind=faster_rcnn model.masks=false."
        )


def run_transfer(what: Transfer, out: str | Path, *, progress: str = "bar") -> DetectionComparison:
    """Train, evaluate, and write `evaluation.json`, `baselines.json` and `table.md`.

    Args:
        what: result of `plan`.
        out: directory that contains one directory per run, `pretrained-0` and so on.
        progress: `bar`, `quiet` or `json`.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    variants = (_PRETRAINED, _UNTRAINED) if what.baseline else (_PRETRAINED,)
    results: dict[str, list[dict[str, float]]] = {name: [] for name in variants}
    rows: dict[str, list[Row]] = {name: [] for name in results}
    for seed in range(what.seeds):
        for variant in results:
            metrics = _once(what, seed, variant, folder / f"{variant}-{seed}", progress)
            results[variant].append(metrics)
            rows[variant] += _rows(what, seed, metrics)
    write_evaluation(
        folder, Evaluation(rows[_PRETRAINED], ""), Baselines([], rows.get(_UNTRAINED, []))
    )
    unreadable: dict[str, str] = {}
    for run in sorted(folder.glob("*/environment.json")):
        unreadable |= read_json(run).get("unreadable", {})
    table = compared(results[_PRETRAINED], results.get(_UNTRAINED))
    comparison = DetectionComparison(table.lines, unreadable)
    write_text(folder / "table.md", comparison.text + "\n")
    write_json(folder / "table.json", comparison.lines, sealed=True)
    return comparison


def compared(
    pretrained: Sequence[dict[str, float]], untrained: Sequence[dict[str, float]] | None
) -> DetectionComparison:
    """Average over seeds, with Student's 95 % intervals; differences are taken seed by seed."""
    lines = []
    for metric in pretrained[0]:
        own = [metrics[metric] for metrics in pretrained]
        line: dict[str, Any] = {"metric": metric, "pretrained": _interval(own)}
        if untrained is not None:
            baseline = [metrics[metric] for metrics in untrained]
            line["untrained"] = _interval(baseline)
            line["difference"] = _interval([a - b for a, b in zip(own, baseline, strict=True)])
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


def build(what: Transfer, seed: int, variant: str, source: DetectionSource) -> DetectionModel:
    """Build the network of one run; its new parts are the same for both variants of a seed."""
    with torch.random.fork_rng(devices=[]):
        encoder: Encoder = load_encoder(what.encoder)
        if encoder.input.range:
            raise ValueError(
                f"`{what.encoder}` takes {encoder.input.dtype} images that are mapped by a range, "
                "and detection sets are 8-bit RGB. Choose an encoder of 8-bit RGB."
            )
        if variant == _UNTRAINED:
            torch.manual_seed(key_of("untrained", seed))
            config = {
                key: value for key, value in encoder.config.items() if key != "pretrained_path"
            }
            encoder = construct(
                resolve(config, "Encoder", "encoder"), "Encoder", {"Encoder": (encoder.input,)}
            )
        torch.manual_seed(key_of("heads", seed))
        network: DetectionModel = construct(
            what.config["model"],
            FAMILIES["model"],
            {"DetectionModel": (encoder, len(source.classes))},
        )
    return network


def _once(what: Transfer, seed: int, variant: str, folder: Path, progress: str) -> dict[str, float]:
    """Train one run, or read its metrics if it is finished."""
    config = copy.deepcopy(what.config) | {
        "seed": seed,
        "encoder": str(what.encoder),
        "start": variant,
    }
    folder.mkdir(parents=True, exist_ok=True)
    written, result = folder / "transfer.yaml", folder / "metrics.json"
    text = dump_yaml(config)
    if written.is_file() and written.read_text(encoding="utf-8") != text:
        raise RunDirectoryInUse(
            f"`{folder}` is a run of another recipe or encoder. Choose another --out."
        )
    if result.is_file():
        known: dict[str, float] = read_json(result)
        return {name: math.nan if value is None else value for name, value in known.items()}
    with locked(folder):
        write_text(written, text)
        parts = {n: construct(config[n], FAMILIES[n], {}) for n in FAMILIES if n != "model"}
        source, training = parts["data"], parts["training"]
        network = build(what, seed, variant, source)
        optimizer, schedule = parts["optimizer"], parts["schedule"]
        unreadable = train(
            network, source, optimizer, schedule, training, folder, seed=seed, progress=progress
        )  # fmt: skip
        scores = score(network, source, training)
        unreadable |= scores.unreadable
        with replacing(folder / "network.safetensors") as temporary:
            save_file(
                {
                    name: t.detach().cpu().contiguous()
                    for name, t in network.named_tensors().items()
                },
                temporary,
            )
        save_encoder(
            network.encoder, folder / "encoder", {"transferred_to": source.name, "start": variant}
        )
        found = environment(training.torch_device().type) | {"unreadable": unreadable}
        write_json(folder / "environment.json", found, sealed=True)
        by_class = [_plain(line) for line in scores.by_class]
        write_json(folder / "by_class.json", by_class, sealed=True)
        write_json(result, _plain(scores.metrics), sealed=True)
    return scores.metrics


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Replace NaN by `None`, for JSON."""
    return {
        key: None if isinstance(v, float) and not math.isfinite(v) else v
        for key, v in values.items()
    }


def trained_model(run: str | Path) -> tuple[DetectionModel, DetectionSource]:
    """Load the network of a finished run, in eval mode, and its data.

    Args:
        run: directory that `run_transfer` wrote, such as `runs/transfer-demo/pretrained-0`.

    Raises:
        ValueError: for a run that is not finished, or whose data is missing.
    """
    folder = Path(run)
    if not (folder / "network.safetensors").is_file():
        raise ValueError(
            f"`{folder}` is not a finished transfer. Give a directory such as OUT/pretrained-0."
        )
    config = read_yaml(folder / "transfer.yaml")
    source: DetectionSource = construct(config["data"], FAMILIES["data"], {})
    with torch.random.fork_rng(devices=[]):
        injected = {"DetectionModel": (load_encoder(folder / "encoder"), len(source.classes))}
        network: DetectionModel = construct(config["model"], FAMILIES["model"], injected)
    load_tensors(network, load_file(folder / "network.safetensors"))
    return network.eval(), source


def _rows(what: Transfer, seed: int, metrics: dict[str, float]) -> list[Row]:
    source, training, optimizer = (what.config[name] for name in ("data", "training", "optimizer"))
    model = what.config["model"]
    how = Protocol.of(
        "transfer",
        model=model["kind"],
        **({"neck": model["neck"]} if "neck" in model else {}),
        steps=training["steps"],
        batch=training["batch_size"],
        optimizer=optimizer["kind"],
        lr=float(optimizer["lr"]),
        norm=model["norm"],
        select="last",
    )
    name = str(source.get("root") or source["kind"])
    probe = str(model["kind"])
    return [
        Row(probe=probe, metric=f"{Path(name).name}/{k}", value=v, protocol=how, seed=seed)
        for k, v in metrics.items()
    ]
