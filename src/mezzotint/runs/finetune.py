"""Fine-tuning: the supervised method in the same loop, started from a saved encoder.

A result after fine-tuning means something only compared with others of the same budget: the
majority class, the same network from scratch, a classifier on the frozen untrained network, and a
linear probe on hand-made features. All are trained here with the same seeds and labels. Labels may
be few: a fraction of each class, some of each, or a list (semi-supervised, few-shot). The encoder
is really trained; the class behind MASSRL's published results freezes it.

The last weights are scored on the test samples, never the best epoch on them. At low bits the
trained network is calibrated on training samples and scored with its fp32 classifier (protocol C of
SSQL, Cao et al. 2022, arXiv 2207.05432). A frozen encoder with `method.bits` is quantized before
its classifier is trained, and scored at these bits alone (protocol A).
"""

import copy
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mezzotint.data.labeled import Labeled
from mezzotint.data.open import require_fit, source_config, split_overrides
from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.saving import load_encoder
from mezzotint.evaluation import progress as measuring
from mezzotint.evaluation.bits import changes, stamped
from mezzotint.evaluation.calibration import calibration_order, read_calibration
from mezzotint.evaluation.features import Kept, Reading, extract_readable, input_features
from mezzotint.evaluation.linear import Linear
from mezzotint.evaluation.metrics import classification
from mezzotint.evaluation.probe import Row
from mezzotint.evaluation.protocol import PTQ, Protocol, Setting, Settings
from mezzotint.evaluation.ptq import calibrated_copy
from mezzotint.evaluation.results import HANDMADE, Baselines, Evaluation, write_evaluation
from mezzotint.files import write_json
from mezzotint.methods.supervised import Supervised
from mezzotint.modality.modality import modality_of
from mezzotint.quant.bitwidth import FP32, Bits, bits
from mezzotint.recipe.reading import shipped
from mezzotint.recipe.recipe import Recipe, read_recipe
from mezzotint.recipe.schema import FAMILIES, RecipeError, construct, resolve
from mezzotint.runs.reuse import ensure, trained_method
from mezzotint.runs.subject import trained_on, with_fitted
from mezzotint.train.log import require_trackers
from mezzotint.types import Features

_SCRATCH, _UNTRAINED, _TUNED = "scratch", "untrained", "finetuned"


@dataclass(frozen=True)
class FineTuning:
    """A fine-tuning that was checked and can be run.

    Attributes:
        encoder: directory of a saved encoder, or of a run.
        config: resolved recipe with the encoder's architecture and the data's classes.
        seeds: number of runs; they differ in labels, order, views and the classifier's start.
        warm_head: start the classifier from the linear probe on the frozen features, as in SSQL's
            protocol.
        baselines: train the same from scratch, and a classifier on the untrained network.
        clips: clips per test video; logits are averaged.
        crops: crops along the longer side of each test image or frame; logits are averaged.
    """

    encoder: Path
    config: dict[str, Any]
    seeds: int = 1
    warm_head: bool = False
    baselines: bool = True
    clips: int = 1
    crops: int = 1


def plan(
    encoder: str | Path,
    what: str | None = None,
    overrides: Sequence[str] = (),
    *,
    seeds: int = 1,
    warm_head: bool = False,
    baselines: bool = True,
    clips: int = 1,
    crops: int = 1,
) -> FineTuning:
    """Read an encoder and a recipe, and check that they fit.

    Args:
        encoder: run, or directory of an encoder.
        what: name or file of a recipe; or data: a folder, a file, the name of embedded data, read
            with the settings of the training data; by default the data of the run.
        overrides: overrides of the recipe, such as `data.fraction=0.01`, and of the data, such as
            `data.size=64`.
        seeds: see `FineTuning`.
        warm_head: see `FineTuning`.
        baselines: see `FineTuning`.
        clips: see `FineTuning`.
        crops: see `FineTuning`.

    Raises:
        ValueError: when there is no such encoder, recipe or data, or they do not fit.
    """
    if seeds < 1:
        raise ValueError(f"`--seeds` must be 1 or more, got {seeds}. 3 give an interval.")
    saved = load_encoder(encoder)
    is_recipe = what is not None and (what in shipped() or Path(what).suffix in (".yaml", ".yml"))
    default = modality_of(saved.input).finetune_recipe
    sectioned = [
        text for text in overrides if text.partition("=")[0].startswith(("encoder", "method.init"))
    ]
    if sectioned:
        raise RecipeError(
            f"{sectioned[0]!r} cannot be set, because the encoder is the saved one. Override other "
            "sections."
        )
    own, of_source = split_overrides(overrides)
    if is_recipe:
        own += [f"data.source.{text.removeprefix('data.')}" for text in of_source]
    config = read_recipe(what if is_recipe and what else default, own)
    if config["method"]["kind"] != "supervised" or config["data"]["kind"] != "labeled":
        raise RecipeError(
            "Fine-tuning needs a recipe of the method supervised on labeled data, got method "
            f"{config['method']['kind']} on data {config['data']['kind']}. See "
            "`mezzotint recipes supervised/finetune`."
        )
    if not is_recipe:
        config["data"]["source"] = source_config(
            what,
            saved.input,
            trained_on(encoder, saved),
            overrides=of_source,
            encoder=encoder,
        )
    config["data"] = with_fitted(config["data"], Path(encoder), saved)
    given = {key: value for key, value in saved.config.items() if key != "pretrained_path"}
    if "drop_path" in given:  # no weight depends on it
        given["drop_path"] = config["encoder"].get("drop_path", given["drop_path"])
    config["encoder"] = resolve(given, "Encoder", "encoder")
    _refuse_other_bits(config)
    data: Labeled = construct(config["data"], FAMILIES["data"], {})
    trained = {} if is_recipe else saved.preprocessing
    require_fit(data.samples, saved.input, data.samples.kind, trained, of_source)
    if (clips, crops) != (1, 1):
        data.samples.multi_crop(clips, crops)  # refused here rather than after training
    config["method"]["num_classes"] = data.num_classes
    config["method"]["init"] = str(encoder)
    return FineTuning(Path(encoder), config, seeds, warm_head, baselines, clips, crops)


def _refuse_other_bits(config: dict[str, Any]) -> None:
    """Refuse other settings of quantization than those at which a frozen encoder's head learns."""
    own = Bits.parse(config["method"]["bits"] or "fp32", "method.bits")
    if own.is_float or not config["method"]["freeze"]:
        return
    if config["evaluate"]["policy"] is not None:
        raise RecipeError(
            "`evaluate.policy` must be null when the head is trained on quantized features, which "
            "has the encoder's own policy or ssql. Leave it out."
        )
    others = [Bits.parse(text, "evaluate.bits") for text in config["evaluate"]["bits"]]
    if any(not one.is_float for one in others):
        raise RecipeError(
            f"`evaluate.bits` must be fp32 when the head is trained on frozen features at {own}, "
            f"got {', '.join(map(str, others))}. Leave it out; for other bits, run with "
            "other --bits."
        )


def finetune(what: FineTuning, out: str | Path, *, progress: str = "bar") -> Evaluation:
    """Train, score, and write `evaluation.json` and `baselines.json`; finished runs are used again.

    Args:
        what: fine-tuning from `plan`.
        out: directory; each run has its own in it, `finetuned-0` and so on.
        progress: `bar`, `quiet` or `json`.

    Returns:
        Rows of the probes `finetune`, `finetune_scratch` and `majority`.
    """
    folder = Path(out)
    require_trackers(what.config["run"]["log"]["trackers"] or ())
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    untrained: list[Row] = []
    by_hand: list[Row] = []
    for seed in range(what.seeds):
        for variant in _variants(what):
            recipe = variant_recipe(what, seed, variant)
            run = folder / f"{variant}-{seed}"
            ensure(
                recipe,
                run,
                progress=progress,
                before=warm if what.warm_head and variant == _TUNED else None,
            )
            with measuring.part(f"scores of {variant}, seed {seed}"):
                scores = list(scored(trained_method(recipe, run), what, seed))
            method, data = _parts(recipe)
            method.save_classifier(run / "encoder", data.task.classes)
            if variant == _TUNED:
                rows += [*scores, *(majority(recipe, scores) if what.baselines else ())]
                by_hand += handmade(recipe, seed) if what.baselines else ()
            elif variant == _SCRATCH:
                rows += [replace(row, probe="finetune_scratch") for row in scores]
            else:
                untrained += scores
    evaluation = Evaluation(rows, "")
    write_evaluation(folder, evaluation, Baselines([], untrained, by_hand))
    write_json(
        folder / "finetune.json",
        {"encoder": str(what.encoder), "warm_head": what.warm_head, **_labels(what)},
        sealed=True,
    )
    return evaluation


def _variants(what: FineTuning) -> tuple[str, ...]:
    """Return the runs of a seed; from scratch, a frozen encoder is the untrained one."""
    if not what.baselines:
        return (_TUNED,)
    frozen = bool(what.config["method"]["freeze"])
    return (_TUNED, _UNTRAINED) if frozen else (_TUNED, _SCRATCH, _UNTRAINED)


def variant_recipe(what: FineTuning, seed: int, variant: str) -> Recipe:
    """Return the recipe of one run: fine-tuned, from scratch, or frozen and untrained."""
    config = copy.deepcopy(what.config)
    config["run"]["seed"] = seed
    config["data"]["seed"] += seed
    if variant != _TUNED:
        config["method"]["init"] = None
    if variant == _UNTRAINED and not config["method"]["freeze"]:
        config["method"] |= {"freeze": True, "bits": None}
    data: Labeled = construct(config["data"], FAMILIES["data"], {})
    config["run"]["batch_size"] = min(config["run"]["batch_size"], len(data))
    return Recipe.build(config)


def warm(recipe: Recipe) -> None:
    """Start the classifier from the linear probe on the frozen features of the training samples."""
    method, data = _parts(recipe)
    if data.task.kind != "classify":
        raise ValueError(
            "`--warm-head` needs classes, which the linear probe can learn, got tags. Leave it out."
        )
    extraction = extract_readable(
        method.encoder, data.samples, _reading(recipe), indices=data.chosen
    )
    (head,) = Linear().heads(Features(extraction.x, data.all_labels[extraction.indices]), seeds=1)
    zero = head.logits(torch.zeros(1, method.encoder.dim))
    # The probe's scaling is affine and folds into the weights.
    weight = (head.logits(torch.eye(method.encoder.dim)) - zero).T
    with torch.no_grad():
        method.head.weight.zero_()
        method.head.weight[head.names] = weight
        method.head.bias.fill_(float(zero.min()) - 10.0)  # classes without a training sample
        method.head.bias[head.names] = zero[0]


def scored(recipe: Recipe, what: FineTuning, seed: int) -> Iterator[Row]:
    """Score a trained network with its classifier on the test samples, in fp32 and at low bits."""
    method, data = _parts(recipe)
    # Training may have left another memory layout, which sums in another order and so moves single
    # samples at low bits.
    method.to(memory_format=torch.contiguous_format)
    method.eval()
    kept = Kept()  # files are read once for all bits
    if (fixed := method.frozen_bits) is not None:
        with bits(method.encoder, fixed):
            rows = _classified(method.encoder, recipe, what, seed, kept)
        yield from stamped(rows, fixed, _first_batch(recipe, seed))
        return
    every = [*recipe.evaluate.bits, *([] if method.bits is None else [method.bits])]
    full = _classified(method.encoder, recipe, what, seed, kept)
    yield from full
    low = [one for one in dict.fromkeys(every) if not one.is_float]
    if not low:
        return
    order = calibration_order([data.task], len(data.samples))
    count = recipe.evaluate.calibration_samples
    count = count and min(count, len(order))  # no refusal after hours of training
    batches = read_calibration(data.samples, method.encoder.input, order, count, _reading(recipe))
    for ptq in recipe.evaluate.ptq:
        with measuring.part(f"calibration by {ptq}"):
            calibrated = calibrated_copy(
                method.encoder, batches, ptq,
                policy=recipe.evaluate.policy, steps=recipe.evaluate.reconstruction_steps,
            )  # fmt: skip
        for to in low:
            with measuring.part(f"test samples at {to}"), calibrated.at(to) as network:
                rows = _classified(network, recipe, what, seed, kept)
            yield from stamped([*rows, *changes(full, rows)], to, calibrated.ptq)


def _first_batch(recipe: Recipe, seed: int) -> PTQ:
    """Say how a frozen encoder was quantized whose head was trained on quantized features."""
    policy = str(getattr(recipe.encoder, "quantization", "ssql"))
    settings: Settings = (("observer", "minmax"), ("rounding", "nearest"), ("views", "augmented"))
    count = recipe.run.batch_size
    return PTQ(method="min_max", policy=policy, settings=settings, calibration=count, seed=seed)


def _classified(
    network: Encoder, recipe: Recipe, what: FineTuning, seed: int, kept: Kept
) -> list[Row]:
    """Run the trained classifier on features; it is affine, so averaged features average logits."""
    method, data = _parts(recipe)
    test = torch.from_numpy(np.asarray(data.task.test, np.int64))
    averaged = (what.clips, what.crops) != (1, 1)
    samples = data.samples.multi_crop(what.clips, what.crops) if averaged else data.samples
    reading = replace(_reading(recipe, max(1, 256 // (what.clips * what.crops))), kept=kept)
    extraction = extract_readable(network, samples, reading, indices=test)
    with torch.no_grad():
        logits = method.classify(extraction.x)
    how = replace(_protocol(what, recipe), train=len(data), test=len(extraction.x))
    answers = data.all_labels[extraction.indices]
    metrics = classification(logits, torch.arange(method.num_classes), answers)
    task = data.task.name
    return [
        Row(probe="finetune", metric=f"{task}/{name}", value=value, protocol=how, seed=seed)
        for name, value in metrics
    ]


def majority(recipe: Recipe, rows: Sequence[Row]) -> Iterator[Row]:
    """Score the largest class of the whole training part as the prediction of every test sample."""
    _, data = _parts(recipe)
    if data.task.kind != "classify":
        return
    row = next(row for row in rows if row.metric.endswith("/top1"))
    yield replace(row, probe="majority", value=data.majority(), bits=FP32)


def handmade(recipe: Recipe, seed: int) -> Iterator[Row]:
    """Score a linear probe on hand-made features with the same labels; nothing without such."""
    _, data = _parts(recipe)
    if data.task.kind != "classify":
        return
    sides = []
    for part in (data.chosen, torch.from_numpy(np.asarray(data.task.test, np.int64))):
        _, found = input_features(data.samples, _reading(recipe), indices=part)
        if found is None:
            return
        sides.append(Features(found.x, data.all_labels[found.indices]))
    with measuring.part(f"{HANDMADE}, seed {seed}"):
        for row in Linear().run(*sides, seeds=1):
            metric = f"{data.task.name}/{row.metric}"
            yield replace(row, probe="finetune", metric=metric, seed=seed)


def _parts(recipe: Recipe) -> tuple[Supervised, Labeled]:
    if not isinstance(recipe.method, Supervised) or not isinstance(recipe.data, Labeled):
        raise TypeError(
            f"Fine-tuning needs Supervised on Labeled, got {type(recipe.method).__name__} on "
            f"{type(recipe.data).__name__}. Make the recipe with `plan`."
        )
    return recipe.method, recipe.data


def _reading(recipe: Recipe, batch_size: int = 256) -> Reading:
    assert isinstance(recipe.data, Labeled)
    return Reading(batch_size, recipe.run.loader.processes(recipe.data.samples))


def _labels(what: FineTuning) -> dict[str, Any]:
    data = what.config["data"]
    return {key: data[key] for key in ("fraction", "per_class", "files")}


def _protocol(what: FineTuning, recipe: Recipe) -> Protocol:
    """Return labels, budget and learning rates as a protocol."""
    settings: dict[str, Setting] = {
        key: value for key, value in _labels(what).items() if value not in (None, 1.0)
    }
    if balance := what.config["data"]["balance"]:
        again = "again" if balance["replacement"] else "once"
        settings["balance"] = f"{balance['samples'] or 'all'}/{again}"
    optimizer = json.loads(json.dumps(recipe.optimizer.config))
    scales = optimizer.get("scales") or {}
    own = recipe.method.config
    trained = FP32 if own.get("bits") is None else Bits.parse(own["bits"])
    settings |= {
        "epochs": recipe.run.epochs,
        "batch": what.config["run"]["batch_size"],
        "optimizer": optimizer["kind"],
        "lr": float(optimizer["lr"]),
        "head": float(scales.get("head", 1.0)),
        "decay": float(scales.get("decay", 1.0)),
        "frozen": bool(own.get("freeze")),
        "warm_head": what.warm_head,
        "bits": str(trained),
        "select": "last",
    }
    protocol = Protocol.of("finetune", **settings)
    return replace(protocol, clips=what.clips, crops=what.crops)
