"""Every key of every shipped recipe changes something, or is declared to change nothing here.

Each key of `data`, `views`, `method`, `optimizer` and `schedule` gets other accepted values, on
small made data, until something that a run sees is different: a sample, a view, a loss, a weight, a
group, a rate. Keys that recipes share are tried once for each modality, kind of network, or frozen
encoder. Crops are also cut while files are decoded, by Pillow and by torchvision's decoder in the
place of nvJPEG, since each of these roads has its own code.
"""

import fnmatch
import functools
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mezzotint.encoders.saving import save_encoder
from mezzotint.recipe.schema import FAMILIES, resolve
from mezzotint.types import Unreadable
from tests.recipes import made_sources, observe
from tests.recipes.keys import Config, Leaf, is_written, leaves, modality_of_data, recipes

SILENT = {
    "data.captioned_images.allow_outside": "no list of the example leaves its folder",
    "data.transfer_set.allow_outside": "no list of the example leaves its folder",
    "data.file_list.allow_outside": "no list of the example leaves its folder",
    "data.image_folder.decoder": "nvjpeg needs an NVIDIA GPU; data/image/test_nvjpeg.py",
    "views.transformed.axis_rotation.groups": "it must be a third of the channels",
    "views.*.randomized_quantization.always": "views have no evaluation mode",
    "views.*.randomized_quantization.gradient": "views have no gradient",
    "method.*.randomized_quantization.always": "the method quantizes in training only",
    "method.bridle.*.commitment": "the encoder's phase freezes its codebook",
    "method.bridle.*.gradient": "the encoder's phase freezes its codebook",
    "method.bridle.*.ema.[de]*": "the encoder's phase freezes its codebook",
    "method.bridle.*.ema.renormalize": "the encoder's phase freezes its codebook",
    "method.bridle.cache": "it saves time; test_bridle.py shows that results stay",
    "method.distill.cache": "it saves time; test_distill.py shows that results stay",
    "method.distill.squat": "it acts under ssql; test_distill.py",
    "method.distill.teachers": "the path is the user's",
    "method.moco.shuffle": "it acts between processes; test_moco.py",
    "method.*.randomized_quantization.channel_dim": "an embedding has one dimension of channels",
    "method.bridle.random_projection.dim": "it must be the number of values of a patch",
}
"""Keys that may change nothing here, and why; `*` stands for any kinds."""

PARTLY = {"views.transformed.strength"}
"""Keys that must act in one recipe: transforms without a strength are in the others, and
test_contract_transforms.py tries all."""

NEEDS: dict[str, dict[str, Any]] = {
    "adamw.final_weight_decay": {"weight_decay": 0.1},
    "byol.blur_kernel": {"blur_p": 1.0},
    "cold_start.positions": {"project": True},
    "cold_start.seed": {"project": True},
    "decoder.shift": {"window": 4},
    "bridle.temperature": {"codes_per_level": 2},
    "distill.queue_size": {"loss": "relational"},
    "distill.teacher_temperature": {"loss": "relational"},
    "distill.temperature": {"loss": "relational"},
    "ema.expire_every": {"expire_below": 0.9},
    "ema.renormalize": {"^.residual": "bridle"},
    "gain.decibels": {"beta": None},
    "labeled.seed": {"fraction": 0.5},
    "local_loss.weight": {"schedule": "constant"},
    "mixing.cutmix": {"per_sample": False},
    "mixing.per_sample": {"cutmix": 0.0, "mixup": 0.5},
    "mocov2.blur_kernel": {"blur_p": 1.0},
    "multi_augment.crops": {"mode": "all"},
    "multi_augment.local_loss": {"num_local": 1},
    "rand_augment.extended": {"names": None},
    "simclr.blur_kernel": {"blur_p": 1.0},
    "transformed.second": {"count": 2},
    "two_views.per_branch": {"randomized_quantization": {"bins": 8}},
}
"""Values of neighbors without which a key cannot act."""

VALUES: dict[str, list[Any]] = {
    "decoder.shift": [[2, 0]],
    "fast_auto_augment.sub_policies": [[[["rotate", 1.0, 0.9]]]],
    "rand_augment.names": [["rotate", "invert"]],
}
"""Other values of keys whose type does not suggest any."""

Contexts = dict[str, list[tuple[Leaf, Any]]]


@functools.cache
def keys(section: str) -> Contexts:
    """Each key of a section by its name, with one leaf for each context that may matter to it."""
    found: dict[tuple[str, Any], tuple[Leaf, Any]] = {}
    for _, recipe, _ in recipes():
        encoder = recipe["encoder"]["kind"]
        context = {
            "views": modality_of_data(recipe["data"]),
            "method": encoder if encoder in ("vit", "timm", "domain_agnostic") else "resnet",
            "optimizer": bool(recipe["method"].get("freeze")),
            "schedule": recipe["run"]["epochs"],
        }[section]
        config = recipe[section]
        for leaf in leaves(section, observe.shrunk(config) if section == "method" else config):
            distinct = None if section == "schedule" else context
            found.setdefault((leaf.name, distinct), (leaf, context))
    named: Contexts = {}
    for (name, _), value in sorted(found.items(), key=lambda item: str(item[0])):
        named.setdefault(name, []).append(value)
    return named


def groups(section: str) -> list[str]:
    """The outer kinds of a section: one test each."""
    return sorted({name.split(".")[1] for name in keys(section)})


class Trial:
    """Compares what runs see with a key and without; the plain side is computed once.

    Args:
        folder: for image files and a saved encoder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plain: dict[str, list[Any]] = {}

    def seen(self, leaf: Leaf, config: Config, context: Any, road: str) -> Iterator[Any]:
        if leaf.section == "views":
            return observe.views(config, context, str(self.folder), road)
        if leaf.section == "method":
            return observe.method(config, context)
        if leaf.section == "optimizer":
            return observe.optimizer(config, context)
        return observe.schedule(config, context)

    def outcome(self, leaf: Leaf, context: Any, road: str, more: list[Any]) -> str:
        """`effect`, `silent`, or `refused` where no other value is accepted."""
        one = json.dumps([leaf.config, context, road], sort_keys=True)
        if one not in self.plain:
            self.plain[one] = list(self.seen(leaf, leaf.config, context, road))
        outcome = "refused"
        for config in leaf.others(more):
            try:
                resolve(config, FAMILIES[leaf.section], leaf.section)
                other = self.seen(leaf, config, context, road)
                if differ(self.plain[one], other):
                    return "effect"
            except ValueError:  # not a value that this recipe can have
                continue
            outcome = "silent"
        return outcome

    def tried(self, leaf: Leaf, context: Any, road: str) -> str:
        """The outcome, with the neighbors that the key needs if it does nothing without."""
        more = VALUES.get(leaf.last, [])
        if leaf.last in ("supervised.init", "fast_auto_augment.file"):
            more = [self.saved(leaf, context)]
        outcome = self.outcome(leaf, context, road, more)
        if outcome == "effect" or leaf.last not in NEEDS:
            return outcome
        try:
            return self.outcome(leaf.needing(NEEDS[leaf.last]), context, road, more)
        except ValueError:
            return outcome

    def saved(self, leaf: Leaf, context: Any) -> str:
        """A file or folder that a key can name."""
        place = self.folder / f"{leaf.key}-{context}"
        if leaf.key == "file":
            place = place.with_suffix(".json")
            place.write_text(json.dumps({"sub_policies": [[["rotate", 1.0, 0.9]]]}))
        elif not place.exists():
            save_encoder(observe.network(context, leaf.config), place, {})
        return str(place)


def differ(plain: list[Any], other: Iterator[Any]) -> bool:
    """Whether two observations differ anywhere; stops at the first difference."""
    pairs = itertools.zip_longest(plain, other, fillvalue="end")
    return any(not observe.same(one, two) for one, two in pairs)


def silent(name: str) -> str | None:
    return next((pattern for pattern in SILENT if fnmatch.fnmatch(name, pattern)), None)


def roads(leaf: Leaf, context: Any) -> list[str]:
    cropped = leaf.section == "views" and context == "image" and "transformed" not in leaf.kinds
    if cropped and "random_resized_crop" in leaf.kinds:
        return ["memory", "folder", "nvjpeg"]
    return ["memory"]


@functools.cache
def data_keys() -> dict[str, list[str]]:
    """The keys of each kind of source and of its parts that shipped recipes have."""
    found: dict[str, set[str]] = {}
    for _, recipe, _ in recipes():
        for leaf in leaves("data", recipe["data"]):
            found.setdefault(leaf.kinds[-1], set()).add(leaf.key)
    return {kind: sorted(own) for kind, own in sorted(found.items())}


WITHIN = {"balance": "labeled", "enlarge": "cifar10", "file_list": "audio_folder"}
"""A source that has the part."""


def data_outcome(leaf: Leaf, folder: Path, plain: dict[str, list[Any]]) -> str:
    """`effect`, `silent` or `refused`: whether what is read of a source depends on a key."""
    one = json.dumps(leaf.config, sort_keys=True)
    if one not in plain:
        plain[one] = list(observe.data(leaf.config))
    outcome = "refused"
    named = made_sources.other_files(leaf.kinds[-1], leaf.key, folder, leaf.config)
    for config in leaf.others(named):
        try:
            if differ(plain[one], observe.data(config)):
                return "effect"
        except Unreadable:
            return "effect"
        except ValueError:  # not a value that this source can have
            continue
        outcome = "silent"
    return outcome


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    return Trial(tmp_path_factory.mktemp("keys"))


SECTIONS = ("views", "method", "optimizer", "schedule")


@pytest.mark.parametrize("group", [f"{s}.{g}" for s in SECTIONS for g in groups(s)])
def test_every_key_has_an_effect_or_is_declared(group: str, trial: Trial) -> None:
    problems = []
    section = group.split(".")[0]
    for name, contexts in keys(section).items():
        if not f"{name}.".startswith(f"{group}."):
            continue
        outcomes = {
            f"{context} {road}": trial.tried(leaf, context, road)
            for leaf, context in contexts
            for road in roads(leaf, context)
        }
        wrong = {"effect"} if silent(name) else {"silent"}
        bad = [place for place, outcome in outcomes.items() if outcome in wrong]
        if name in PARTLY and "effect" in outcomes.values():
            continue
        if bad or (set(outcomes.values()) == {"refused"} and not silent(name)):
            problems.append(f"{name}: {outcomes}")
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("kind", data_keys())
def test_every_key_of_data_has_an_effect_or_is_declared(kind: str, tmp_path: Path) -> None:
    source = WITHIN.get(kind, kind)
    plain: dict[str, list[Any]] = {}
    outcomes: dict[str, set[str]] = {key: set() for key in data_keys()[kind]}
    for config in made_sources.contexts(source, tmp_path / source):
        for leaf in leaves("data", resolve(config, "Source", "data")):
            if leaf.kinds[-1] == kind and "effect" not in outcomes.get(leaf.key, {"effect"}):
                outcomes[leaf.key].add(data_outcome(leaf, tmp_path / source, plain))
    for key, found in outcomes.items():
        declared = silent(f"data.{kind}.{key}")
        assert ("effect" in found) is (declared is None), (
            f"{kind}.{key} is {found or 'in no context'}: give it another value in made_sources.py"
        )


def test_rates_that_a_recipe_writes_act_in_that_recipe(trial: Trial) -> None:
    seen = set()
    for name, recipe, raw in recipes():
        contexts = {
            "optimizer": bool(recipe["method"].get("freeze")),
            "schedule": recipe["run"]["epochs"],
        }
        for section, context in contexts.items():
            one = json.dumps([recipe[section], context], sort_keys=True)
            if one in seen:
                continue
            seen.add(one)
            for leaf in leaves(section, recipe[section]):
                if is_written(raw.get(section), leaf.path):
                    outcome = trial.outcome(leaf, context, "memory", [])
                    assert outcome == "effect", f"{name}: {leaf.name}"


def test_no_recipe_writes_what_a_frozen_codebook_ignores() -> None:
    """The published recipes repeat what the authors' code sets."""
    frozen = [pattern for pattern, reason in SILENT.items() if "freezes" in reason]
    for name, recipe, raw in recipes():
        for leaf in leaves("method", recipe["method"]):
            if silent(leaf.name) in frozen and not name.endswith("_published"):
                assert not is_written(raw["method"], leaf.path), f"{name}: {leaf.name}"


def test_declared_keys_are_those_of_recipes() -> None:
    names = {name for section in SECTIONS for name in keys(section)}
    names |= {f"data.{kind}.{key}" for kind, own in data_keys().items() for key in own}
    assert not [pattern for pattern in SILENT if not fnmatch.filter(names, pattern)]
    last = {".".join(name.split(".")[-2:]) for name in names}
    assert NEEDS.keys() <= last and VALUES.keys() <= last
