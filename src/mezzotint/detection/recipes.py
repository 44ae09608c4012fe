"""Transfer recipes: five sections of plain data, read and checked without torch."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mezzotint.recipe.reading import read_raw
from mezzotint.recipe.schema import RecipeError, nearest, resolve

FAMILIES = {
    "data": "DetectionSource",
    "model": "DetectionModel",
    "optimizer": "Optimizer",
    "schedule": "Schedule",
    "training": "Training",
}
DEFAULT = "pasted_c4"
_SHIPPED = Path(__file__).parent.parent / "recipes" / "transfer"


def shipped_transfers() -> dict[str, Path]:
    """List the transfer recipes of the package by name."""
    return {path.stem: path for path in sorted(_SHIPPED.glob("*.yaml"))}


def read_transfer(name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read a transfer recipe as checked plain data with all defaults.

    Args:
        name: name or file of a recipe, or a folder in VOC or COCO format.
        overrides: changes such as `training.steps=300`.

    Raises:
        RecipeError: for an unknown recipe, section or key.
    """
    known = shipped_transfers()
    first: list[str] = []
    name = name.removeprefix("transfer/")
    if Path(name).is_dir():
        name, first = _of_folder(Path(name))
    path = known.get(name, Path(name))
    if not path.is_file():
        raise RecipeError(
            f"There is no transfer recipe {name!r}. Give a folder in VOC or COCO format, a YAML "
            "file, "
            f"or one of {', '.join(known)}.{nearest(name, known)}"
        )
    config = read_raw(path, [*first, *overrides])
    for section in config:
        if section not in FAMILIES:
            raise RecipeError(
                f"`{section}` is no section of a transfer recipe. Sections: {', '.join(FAMILIES)}."
                f"{nearest(section, FAMILIES)}"
            )
    return {
        section: resolve(config.get(section) or {}, family, section)
        for section, family in FAMILIES.items()
    }


def _of_folder(folder: Path) -> tuple[str, list[str]]:
    """Choose the recipe for a folder, and the overrides that name the folder."""
    root = [f"data.root={json.dumps(str(folder))}"]
    if (folder / "annotations").is_dir():
        return "coco_c4", root
    if (folder / "VOC2007").is_dir():
        return "voc07_c4", root
    own = folder / "ImageSets" / "Main"
    train = next((n for n in ("trainval", "train") if (own / f"{n}.txt").is_file()), "train")
    test = next((n for n in ("test", "val") if (own / f"{n}.txt").is_file()), "test")
    return "voc07_c4", [*root, f"data.train=[{train}]", f"data.test=[{test}]"]
