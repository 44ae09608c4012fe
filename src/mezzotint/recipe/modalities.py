"""Data, views and encoder of a recipe share a modality; one check says so before any of them fails.

Encoders, transforms and view generators name the modalities that they take (`modalities`, a class
variable, empty for any). So the check needs the samples' modality and the recipe's plain data, and
runs before the encoder is made.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mezzotint.recipe.schema import RecipeError, class_of
from mezzotint.recipe.signatures import index


def require_one_modality(
    config: Mapping[str, Any], modality: str, shipped: Mapping[str, Path]
) -> None:
    """Check that views and encoder take the modality of the data.

    Args:
        config: a checked recipe.
        modality: the samples' modality.
        shipped: the package's recipes; the message suggests one.

    Raises:
        RecipeError: with the section to change and a recipe to try.
    """
    from mezzotint.modality.modality import modality_of  # imports torch

    for key, kind, family in _parts(config):
        takes = class_of(kind, family).modalities
        if takes and modality not in takes:
            data = config["data"]
            kind_of_data = data["source"]["kind"] if data["kind"] == "labeled" else data["kind"]
            samples = modality_of(modality)
            recipe = suggested(kind_of_data, shipped) or samples.recipe
            accepted = " or ".join(modality_of(name).plural for name in sorted(takes))
            raise RecipeError(
                f"`data` ({kind_of_data}) has {samples.plural}, but `{key}` ({kind}) takes "
                f"{accepted}. Change `{key}` or `data`, or try `mezzotint pretrain {recipe}`."
            )


def _parts(config: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Key, kind and family of everything that meets a whole sample.

    Transforms inside another one (`per_frame`, `image_and_text`) meet what that one hands them.
    """
    yield "encoder", config["encoder"]["kind"], "Encoder"
    yield "views", config["views"]["kind"], "ViewGenerator"
    transforms = index().members("Transform")
    for key, chain in config["views"].items():
        for position, item in enumerate(chain if isinstance(chain, list) else ()):
            if isinstance(item, Mapping) and item.get("kind") in transforms:
                yield f"views.{key}.{position}", item["kind"], "Transform"


def suggested(kind: str, shipped: Mapping[str, Path]) -> str:
    """Choose the shortest shipped recipe for a kind of data, SimCLR if any; empty without one."""
    candidates = [
        name
        for name, path in shipped.items()
        if not name.startswith("supervised/")
        and re.search(rf"\bkind: {kind}\b", path.read_text(encoding="utf-8"))
    ]
    return min(candidates, key=lambda name: ("simclr" not in name, len(name), name), default="")
