"""What a key can change: samples that are read, views, losses and weights, groups, rates.

Each function builds a section on small made data and yields what a run would see of it, in order.
"""

import copy
import functools
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mezzotint.augment.image.views import ImageViews
from mezzotint.augment.views import CleanTarget, ViewContext
from mezzotint.data.image import nvjpeg
from mezzotint.data.image.folder import ImageFolder
from mezzotint.data.image_text import EmojiNames
from mezzotint.data.loader import BatchPlan
from mezzotint.data.source import Source
from mezzotint.data.view_batch import view_batch
from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.resnet import resnet8
from mezzotint.methods.method import Method
from mezzotint.methods.supervised import Supervised
from mezzotint.optim.optimizer import Optimizer
from mezzotint.recipe.schema import FAMILIES, class_of, construct, resolve
from mezzotint.seeding import Draws, key_of
from mezzotint.types import Batch, Input, Views
from tests.test_contract_methods import teacher

Config = dict[str, Any]


def build(section: str, config: Config, injected: Any = None) -> Any:
    """Check a section and make its object."""
    family = FAMILIES[section]
    return construct(resolve(config, family, section), family, injected or {})


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------------------------------- views

INPUTS = {
    "image": Input((3, 32, 32), (0.4,) * 3, (0.3,) * 3),
    "audio": Input((1, 64, 700), (0.1,), (0.9,), "audio"),
    "video": Input((3, 16, 32, 32), (0.4,) * 3, (0.3,) * 3, "video"),
    "points": Input((3, 1024), (0.0,) * 3, (1.0,) * 3, "points"),
    "series": Input((6, 320), (0.0,) * 6, (1.0,) * 6, "series"),
    "table": Input((12,), (0.0,) * 12, (1.0,) * 12, "table"),
    "tokens": Input((256,), (), (), "tokens", vocabulary=64),
}
SAMPLES = 36


@functools.cache
def stored(modality: str) -> tuple[Input, Tensor]:
    """Samples of a modality as a source stores them, and the input that they suit."""
    if modality == "image_text":
        source = EmojiNames()
        return source.input, source.read_batch(torch.arange(SAMPLES))
    input = INPUTS[modality]
    if modality == "tokens":
        generator = torch.Generator().manual_seed(0)
        return input, torch.randint(2, 64, (SAMPLES, *input.shape), generator=generator)
    shape = {"image": (3, 40, 48), "video": (3, 24, 32, 32)}.get(modality, input.shape)
    x = noise(SAMPLES, *shape)
    return input, (x * 60 + 128).clamp(0, 255).byte() if modality in ("image", "video") else x


@functools.cache
def folder(root: str) -> ImageFolder:
    """The images of `stored` as JPEG files, of which the largest side is what crops need."""
    for index, image in enumerate(stored("image")[1]):
        pixels = Image.fromarray(image.permute(1, 2, 0).numpy())
        pixels.save(Path(root) / f"{index:02d}.jpg", quality=95, subsampling=0)
    return ImageFolder(root=root, size=32)


def views(config: Config, modality: str, root: str, road: str) -> Iterator[Any]:
    """The views of two batches, and the pairs that are compared.

    Args:
        config: the section.
        modality: modality of the samples.
        root: folder for image files.
        road: `memory`; `folder`, where the loader crops while it decodes; or `nvjpeg`.
    """
    for item in (*(config.get("transforms") or ()), *(config.get("second") or ())):
        if modality not in (class_of(item["kind"], "Transform").modalities or {modality}):
            raise ValueError("`mezzotint.recipe.modalities` refuses this transform.")
    made = build("views", config)
    input, x = stored(modality)
    yield made.tags
    for progress in (0.0, 0.5, 0.95):
        yield made.pairing(progress)
    for ids in torch.split(torch.arange(len(x)), [6, len(x) - 6]):
        batch = Batch((x[ids],), ids)
        if road == "folder":
            batch, _ = view_batch(folder(root), made, ids, input=input, seed=1)
        elif road == "nvjpeg":
            assert isinstance(made, ImageViews | CleanTarget)
            samplers = made.crop_samplers(ids, ViewContext(input, 1, 0))
            files = [_jpeg(image, choose) for image, choose in zip(x[ids], samplers, strict=True)]
            rows = nvjpeg.decode_crops(files, torch.device("cpu"))
            crops = tuple(torch.stack(column) for column in zip(*rows, strict=True))
            batch = Batch(crops, ids, cropped=True)
        yield from made.render(batch, ViewContext(input, 1, 0))


def _jpeg(image: Tensor, choose: Any) -> nvjpeg.Jpeg:
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=95)
    data = torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)
    return nvjpeg.Jpeg(data, choose(*image.shape[1:]))


# --------------------------------------------------------------------------------------- method

SIZES = {
    "hidden_dim": 16, "prototypes": 32, "queue_size": 24, "num_codes": 8, "code_dim": 8,
    "num_levels": 2, "slices": 16, "knots": 5, "num_classes": 5, "estimator_depth": 1,
    "expire_every": 2, "every": 2,
}  # fmt: skip
DECODER = {"width": 16, "depth": 2, "heads": 2}
VALUES = 12
"""Values of a patch, and so the width of a codebook, which may get them as they are."""


def shrunk(config: Any, inside: str = "") -> Any:
    """A method of published size made small; what kind its parts are stays."""
    if not isinstance(config, dict):
        return config
    small = {key: shrunk(value, key) for key, value in config.items()}
    small |= {key: size for key, size in SIZES.items() if small.get(key) is not None}
    if inside == "decoder":
        small |= DECODER
    if "teachers" in small:
        small["teachers"] = [teacher()]
    if small.get("dim") is not None:
        small["dim"] = VALUES if inside == "codebook" else 16 if small["kind"] == "simsiam" else 8
    return small


def network(encoder: str, config: Config) -> Encoder:
    """A small network of the recipe's kind: with BatchNorms, or over 64 patches."""
    image = Input((3, 16, 16), (0.0,) * 3, (1.0,) * 3)
    if "tube_mask" in str(config):
        image = Input((3, 4, 8, 8), (0.0,) * 3, (1.0,) * 3, "video")
    sizes: Config = {"width": 12, "depth": 1, "heads": 2}
    if encoder == "domain_agnostic":
        made = {"kind": encoder, **sizes, "patch": 4}
    elif encoder in ("vit", "timm"):
        patch: Any = [1, 2, 2] if image.modality == "video" else 2
        made = {"kind": "vit", **sizes, "patch": patch}
    else:
        made = {"kind": "resnet8", "stem": "patch", "width": 4}
    encoded = build("encoder", made, {"Encoder": (image,)})
    assert isinstance(encoded, Encoder)
    return encoded


def method(config: Config, encoder: str) -> Iterator[Any]:
    """Weights at the start; loss, logs and weights of four steps."""
    torch.manual_seed(0)
    own = network(encoder, config)
    made = build("method", config, {"Method": (own,)})
    assert isinstance(made, Method)
    made.given = made.needs
    made.train()
    yield [(name, tuple(value.shape)) for name, value in made.state_dict().items()]
    yield [name for name, value in made.named_parameters() if value.requires_grad]
    yield from copy.deepcopy(list(made.state_dict().values()))
    trained = [parameter for parameter in made.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.05)
    for number, epoch in enumerate((0, 1, 20, 40)):
        torch.manual_seed(number)
        progress = torch.tensor(number / 4)
        optimizer.zero_grad()
        made.before_step()
        outcome = made(_views_for(made, number, epoch, progress))
        outcome.loss.backward()
        yield outcome.loss.detach().clone()
        yield from (value.detach().clone() for _, value in sorted(outcome.logs.items()))
        optimizer.step()
        made.after_step((number + 1) / 4)
    yield from made.state_dict().values()
    yield [(name, branch.projector is None) for name, branch in made.branches().items()]


def _views_for(made: Method, number: int, epoch: int, progress: Tensor) -> Views:
    count = 2 if made.max_views is None else made.min_views
    count = max(count, 2 if made.max_views != 1 else 1)
    shape = made.encoder.input.shape
    x = tuple(noise(8, *shape, seed=10 * number + view) + 0.5 for view in range(count))
    draws = Draws(torch.arange(8), key_of(7, number))
    labels = torch.arange(8) % 5
    return Views(x, ("global",) * count, draws, labels, (), None, torch.tensor(epoch), progress)


# ------------------------------------------------------------------------ optimizer and schedule


def optimizer(config: Config, freeze: bool) -> Iterator[Any]:
    """Parameter groups, the rates over a run, and the weights after three steps."""
    torch.manual_seed(0)
    input = Input((3, 16, 16), (0.0,) * 3, (1.0,) * 3)
    model = Supervised(resnet8(input, stem="small", width=4), num_classes=3, freeze=freeze)
    settings = build("optimizer", config)
    assert isinstance(settings, Optimizer)
    made = settings.build(model, 512)
    for step, progress in enumerate((0.0, 0.4, 0.9)):
        settings.set_rates(made, 1.0 - 0.1 * step, progress)
        for group in made.param_groups:
            yield group["lr"], group["weight_decay"], tuple(group["param_names"])
        for index, parameter in enumerate(model.parameters()):
            parameter.grad = 1e-3 * noise(*parameter.shape, seed=100 * step + index)
        made.step()
        yield from (parameter.detach().clone() for parameter in model.parameters())


def schedule(config: Config, epochs: int) -> Iterator[Any]:
    """The factor of every step of a run with four steps an epoch."""
    made = build("schedule", config)
    yield [made(step, 4 * epochs, 4) for step in range(4 * epochs)]


# ----------------------------------------------------------------------------------------- data


def data(config: Config) -> Iterator[Any]:
    """What training and evaluation read of a source."""
    source = build("data", config)
    assert isinstance(source, Source)
    yield len(source), source.input, source.decoder
    yield [source.id_of(index) for index in range(len(source))]
    steps = BatchPlan.of(source, 2, 0, 0, 1)
    yield [steps.indices(step).tolist() for step in range(3)]
    yield source.targets(torch.arange(len(source)))
    whole, tasks = source.evaluation()
    for part in (source, source.with_context(), whole):
        for index in {0, len(part) // 3, len(part) - 1}:
            yield part.read(index)["x"]
        yield None if part.labels is None else np.asarray(part.labels).tolist()
    yield None if whole.groups is None else np.asarray(whole.groups).tolist()
    for task in tasks:
        yield task.name, task.kind, tuple(task.classes)
        for rows in (task.labels, task.train, task.test, task.validation):
            yield np.asarray(rows).tolist()


def same(one: Any, other: Any) -> bool:
    """Whether two observations are equal, bit for bit."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, (tuple, list)) and isinstance(other, (tuple, list)):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and bool(one == other)
