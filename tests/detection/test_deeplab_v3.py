"""DeepLabV3: dilation of the last stage."""

import torch

from mezzotint.detection.deeplab_v3 import DeepLabV3
from mezzotint.encoders.resnet import resnet50
from mezzotint.types import Input


def test_dilation_keeps_the_weights_and_the_size() -> None:
    torch.manual_seed(0)
    encoder = resnet50(Input((3, 64, 64), (0.5,) * 3, (0.5,) * 3), width=4)
    before = {name: t.clone() for name, t in encoder.state_dict().items()}
    made = DeepLabV3(encoder, 3)
    assert made.backbone(torch.zeros(1, 3, 64, 64))["0"].shape[2:] == (
        4,
        4,
    )  # an output stride of 16
    apart = [b.conv2.dilation for b in encoder.get_submodule("layer4").children()]  # type: ignore[union-attr]
    assert apart == [(2, 2), (4, 4), (8, 8)]
    for name, tensor in encoder.state_dict().items():
        if "running" not in name and "num_batches" not in name:
            assert torch.equal(tensor, before[name])
