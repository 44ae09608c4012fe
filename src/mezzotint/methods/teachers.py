"""Frozen teachers of a student: loading, their view of the student's samples, cached features.

A teacher is a run, an encoder directory, a local folder of timm's hub layout, or an ONNX file. It
may take another size, other channels and another normalization than the student: views are resized
(bilinear), gray is repeated or colors are averaged, and normalized again.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.onnx import load_exported
from mezzotint.encoders.saving import load_encoder
from mezzotint.encoders.timm import timm
from mezzotint.files import read_json
from mezzotint.methods.code_targets import checksum
from mezzotint.modality.modality import modality_of
from mezzotint.types import Input

_GROUP = 32
"""Rows of a forward pass of cached teachers: it fits the cache of a CPU at a few dozen pixels."""
_HUB = ("model.safetensors", "pytorch_model.bin")


class Teachers:
    """Frozen encoders, one after the other.

    They are no module: checkpoints do not hold them, and a run that goes on reads them again.

    Args:
        paths: runs, encoder directories, hub folders of timm, or ONNX files.
        student: input of the student, in whose normalization samples come.
        dense: also compute feature maps.

    Attributes:
        networks: the encoders, in eval mode and without gradients.
        dims: number of features of each.
        maps: shape `(C, h, w)` of the feature map of each; empty unless `dense`.

    Raises:
        ValueError: for no path, one without an encoder, an encoder of another modality or shape,
            and for `dense` with one that has no feature map.
    """

    def __init__(self, paths: Sequence[str], student: Input, *, dense: bool = False) -> None:
        if not paths:
            raise ValueError(
                "`method.teachers` must name an encoder or more, got none. Give a run, an encoder "
                "directory, a folder of timm's hub layout, or an ONNX file."
            )
        # Looked up once: `__call__` is traced by torch.compile.
        self.student, self.images = student, _is_image(student)
        self.networks = tuple(load_teacher(path, student) for path in paths)
        self.dims = [network.dim for network in self.networks]
        self.maps: list[tuple[int, int, int]] = []
        for path, network in zip(paths, self.networks, strict=True) if dense else ():
            try:
                with torch.no_grad():
                    _, grid = network.features_and_map(network.input.blank())
            except ValueError as error:
                raise ValueError(f"`method.dense` with the teacher `{path}`: {error}") from error
            self.maps.append((grid.shape[1], grid.shape[2], grid.shape[3]))

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Compute a row for each sample: the features of all teachers, then their maps.

        Args:
            x: `[B, *sizes]`, a view that is normalized for the student.

        Returns:
            float32 `[B, D₁ + D₂ + … + C₁h₁w₁ + …]`.
        """
        features, maps = [], []
        for number, network in enumerate(self.networks):
            own = converted(x, self.student, network.input, resize=self.images)
            if not self.maps:
                features.append(network(own).float())
                continue
            found, grid = network.features_and_map(own)
            features.append(found.float())
            # Samples of a free length have longer maps than the example.
            maps.append(resized(grid.float(), self.maps[number][1:]).flatten(1))
        return torch.cat([*features, *maps], dim=1)

    def apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> None:
        """Move all teachers to another device or memory format, as `Module._apply` does."""
        for network in self.networks:
            network._apply(fn, recurse)  # type: ignore[no-untyped-call]


def load_teacher(path: str, student: Input) -> Encoder:
    """Load a frozen teacher of the student's modality.

    Raises:
        ValueError: for a path without an encoder, or one of another modality or shape.
    """
    folder = Path(path)
    is_hub = (folder / "config.json").is_file() and not (folder / "encoder.json").is_file()
    try:
        teacher: Encoder = (
            load_exported(path, lambda: student, own_size=_is_image(student))
            if folder.suffix == ".onnx"
            else _of_hub(folder, student)
            if is_hub
            else load_encoder(path)
        )
    except ValueError as error:
        raise ValueError(f"`method.teachers`: {error}") from error
    if teacher.input.modality != student.modality:
        raise ValueError(
            f"`method.teachers`: `{path}` takes {modality_of(teacher.input).plural}, and the data "
            f"has {modality_of(student).plural}. Choose a teacher of this modality."
        )
    shapes = teacher.input.shape, student.shape
    if not _is_image(student) and not modality_of(student).fits(student, teacher.input):
        raise ValueError(
            f"`method.teachers`: `{path}` takes samples of shape {list(shapes[0])}, and the data "
            f"has {list(shapes[1])}. Read the data as the teacher was trained."
        )
    return teacher.requires_grad_(False).eval()


def _of_hub(folder: Path, student: Input) -> Encoder:
    """Load a folder of timm's hub layout, with the size and the normalization that it states."""
    described = read_json(folder / "config.json")
    stated = described.get("pretrained_cfg", described)
    files = [folder / name for name in _HUB if (folder / name).is_file()]
    keys = ("input_size", "mean", "std")
    if "architecture" not in described or not files or any(key not in stated for key in keys):
        raise ValueError(
            f"`{folder}` must have {_HUB[0]} and a config.json with "
            f"`architecture`, {', '.join(keys)}, as timm writes it. Check the folder."
        )
    if not _is_image(student):
        raise ValueError(
            f"`{folder}` is a network of timm, which takes images, and the data "
            f"has {modality_of(student).plural}. Choose a teacher of this modality."
        )
    shape, mean, std = (tuple(stated[key]) for key in keys)
    return timm(
        Input(shape, mean, std), name=described["architecture"], pretrained_path=str(files[0])
    )


def converted(x: Tensor, student: Input, teacher: Input, *, resize: bool = True) -> Tensor:
    """Bring a batch that is normalized for the student to the teacher's input.

    Args:
        x: `[B, C, …]`, in the student's normalization; images may be crops of any size.
        student: input of the student.
        teacher: input of the teacher.
        resize: bring images to the channels and the size of the teacher.
    """
    if (student == teacher and x.shape[1:] == teacher.shape) or not student.mean:
        return x
    shape = (1, -1, *(1,) * (x.ndim - 2))
    mean, std = (_sent(v, x).view(shape) for v in (student.mean, student.std))
    plain = x.float() * std + mean
    if resize:
        plain = _with_channels(plain, teacher.shape[0])
        plain = resized(plain, teacher.shape[1:])
    mean, std = (_sent(v, x).view(shape) for v in (teacher.mean, teacher.std))
    return (plain - mean) / std


def _sent(values: Sequence[float], x: Tensor) -> Tensor:
    """Send numbers to the device of a batch, without waiting for it."""
    return torch.tensor(values).to(x.device, non_blocking=True)


def resized(x: Tensor, size: Sequence[int]) -> Tensor:
    """Resize `[B, C, h, w]` to another height and width, bilinear and antialiased."""
    if list(x.shape[2:]) == list(size):
        return x
    return interpolate(x, size=tuple(size), mode="bilinear", antialias=True, align_corners=False)


def _is_image(input: Input) -> bool:
    """Whether samples are images, which can be resized and take other channels."""
    return modality_of(input).axes == ("channels", "height", "width")


def _with_channels(x: Tensor, channels: int) -> Tensor:
    """Average colors to gray, and repeat gray for the channels of a teacher."""
    if x.shape[1] == channels:
        return x
    gray = x.mean(dim=1, keepdim=True)
    return gray.expand(-1, channels, *x.shape[2:])


def parts_of(
    row: Tensor, dims: Sequence[int], maps: Sequence[tuple[int, int, int]]
) -> list[Tensor]:
    """Cut rows of `Teachers` into the features `[B, D]` and the maps `[B, C, h · w]` of each."""
    sizes = [*dims, *(math.prod(shape) for shape in maps)]
    parts = list(row.split(sizes, dim=1))
    for number, (channels, _, _) in enumerate(maps, len(dims)):
        parts[number] = parts[number].unflatten(1, (channels, -1))
    return parts


class FeatureCache:
    """Keeps the rows of teachers for views that come again, bit for bit.

    Rows are stored with a checksum of their view, in the memory of the CPU. Unknown views are
    computed in groups of 32, the last one filled by views of the batch, so that every row comes
    from a forward pass of the same size. It is no part of a checkpoint: a run that goes on computes
    each row once more.
    """

    def __init__(self) -> None:
        self._rows: dict[tuple[int, int], tuple[int, Tensor]] = {}

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    @torch.no_grad()
    def __call__(
        self, index: int, ids: Tensor, x: Tensor, teachers: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Return the rows of a view, and compute those that are unknown.

        Args:
            index: number of the view.
            ids: int64 `[B]`, ids of the samples.
            x: `[B, *sizes]`.
            teachers: makes the rows.

        Raises:
            ValueError: for a view that was another one before.
        """
        samples, sums = torch.stack([ids, checksum(x)]).tolist()  # one reading of the device
        names = [(index, sample) for sample in samples]
        for name, now in zip(names, sums, strict=True):
            if name in self._rows and self._rows[name][0] != now:
                raise ValueError(not_repeated(f"view {index + 1} of sample {name[1]} is not"))
        unknown = [row for row, name in enumerate(names) if name not in self._rows]
        for start in range(0, len(unknown), _GROUP):
            group = unknown[start : start + _GROUP]
            filled = [*group, *(n % len(x) for n in range(_GROUP - len(group)))]
            made = teachers(x[torch.tensor(filled, device=x.device)]).cpu()
            for row, values in zip(group, made, strict=False):
                self._rows[names[row]] = sums[row], values.clone()
        stored = torch.stack([self._rows[name][1] for name in names])
        return stored.to(x.device, non_blocking=True)


def not_repeated(what: str) -> str:
    """Say why features cannot be cached."""
    return (
        f"`method.cache` needs teachers that see the same in every epoch, and {what}. Put the "
        "views into `views.kind: clean_target`, whose teachers see each sample as it is, make them "
        "without randomness, or leave cache out."
    )
