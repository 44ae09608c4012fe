"""Transfer recipes build for a published network."""

import pytest

from mezzotint.detection.recipes import read_transfer, shipped_transfers
from mezzotint.encoders.resnet import resnet8, resnet50
from mezzotint.recipe.schema import construct
from mezzotint.types import Input

INPUT = Input((3, 32, 32), (0.5, 0.4, 0.3), (0.25, 0.25, 0.2))


@pytest.mark.parametrize("name", shipped_transfers())
def test_shipped_recipes_build_for_a_published_network(name: str) -> None:
    config = read_transfer(name)
    encoder = resnet50(Input((3, 224, 224), (0.5,) * 3, (0.5,) * 3), width=4)
    if name.startswith("pasted"):
        encoder = resnet8(INPUT, stem="patch", width=4)
    made = construct(config["model"], "DetectionModel", {"DetectionModel": (encoder, 20)})
    for section in ("optimizer", "schedule", "training"):
        construct(
            config[section],
            {"optimizer": "Optimizer", "schedule": "Schedule", "training": "Training"}[section],
            {},
        )
    masks = name.startswith("coco") and name != "coco_fpn_half" or name == "pasted_mask"
    assert made.needs == ("classes" if "deeplab" in name else "masks" if masks else "boxes")
