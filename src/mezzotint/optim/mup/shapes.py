"""Find the dimensions of parameters that grow with width, by comparing shapes; plain data by name.

The base shape of a parameter lists, for each of its dimensions, the size that it has in the base
model, or `None` where the dimension is no width. Two models that differ in width alone tell which
is which, and they may live on the meta device, where they cost nothing.

What is found is kept on the module that owns the parameter, as a dictionary of tuples, and never on
the parameter itself: `copy.deepcopy`, pickling, `load_state_dict(assign=True)`, `AveragedModel`,
`fully_shard` and `functional_call` replace parameters and keep modules.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from weakref import WeakSet

import yaml
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.parameter import is_lazy

from mezzotint.files import write_text

Dims = tuple[int | None, ...]
Role = Literal["input", "hidden", "output", "vector", "scalar"]
_PREFIXES = ("module.", "_orig_mod.")  # what DistributedDataParallel and torch.compile put before
_SCALED_ROOTS: "WeakSet[nn.Module]" = WeakSet()


class BaseShapes(dict[str, Dims]):
    """The base shape of each parameter, by name; `None` marks a dimension that is no width."""


@dataclass(frozen=True)
class Growth:
    """How one parameter differs from that of the base model.

    Attributes:
        role: what the parameter is in muP.
        fan_in: size of the input dimension over that of the base model; 1 where it is no width.
        fan_out: size of the output dimension over that of the base model.
        rows: size of the first dimension.
        columns: product of the others.
        depth: residual blocks over those of the base model, of parameters in residual branches.
    """

    role: Role
    fan_in: float = 1.0
    fan_out: float = 1.0
    rows: int = 1
    columns: int = 1
    depth: float = 1.0

    @property
    def width(self) -> float:
        """The width multiplier m: of the inputs where these grow, else of the outputs."""
        return self.fan_in if self.role in ("hidden", "output") else self.fan_out


def shapes_of(source: nn.Module | Mapping[str, Any] | str | Path) -> BaseShapes | dict[str, Dims]:
    """Read shapes from a model, a dictionary or a file of base shapes.

    Raises:
        TypeError: for anything else.
    """
    if isinstance(source, BaseShapes):
        return source
    if isinstance(source, nn.Module):
        _require_sizes(source)
        named = dict(source.named_parameters())
        return {name: tuple(named[own].shape) for own, name in bare(named).items()}
    if isinstance(source, Mapping):
        shapes = {name: tuple(source[own]) for own, name in bare(source).items()}
        known = any(size is None for dims in shapes.values() for size in dims)
        return BaseShapes(shapes) if known else shapes
    if isinstance(source, (str, Path)):
        return load_base_shapes(source)
    raise TypeError(
        f"Base shapes must be a model, a dictionary of shapes or the path of a file, got "
        f"{type(source).__name__}. Pass the base model itself."
    )


def compare(
    base: nn.Module | Mapping[str, Any] | str | Path, other: nn.Module | Mapping[str, Any]
) -> BaseShapes:
    """Find the base shapes: sizes of the base model in the dimensions in which two models differ.

    Args:
        base: the base model, its shapes, or base shapes, which are then checked and returned.
        other: the same model at another width.

    Raises:
        ValueError: when the two are of different architectures.
    """
    first, second = shapes_of(base), shapes_of(other)
    _require_same_names(first, second)
    found = BaseShapes()
    for name, dims in first.items():
        sizes = second[name]
        if len(dims) != len(sizes):
            raise ValueError(
                f"`{name}` has {len(sizes)} dimensions, and {len(dims)} in the base shapes. Base "
                "shapes must be those of the same architecture. Make them again from this model."
            )
        known = isinstance(first, BaseShapes)
        found[name] = tuple(
            size if known or size != own else None for size, own in zip(dims, sizes, strict=True)
        )
    return found


def make_base_shapes(
    base_shapes: nn.Module | Mapping[str, Any],
    delta_shapes: nn.Module | Mapping[str, Any],
    savefile: str | Path | None = None,
) -> BaseShapes:
    """Find base shapes by comparing a base model with one of another width.

    Args:
        base_shapes: the base model, or its shapes by name.
        delta_shapes: the same model, with every width changed.
        savefile: where to write the result, if anywhere.
    """
    found = compare(base_shapes, delta_shapes)
    if savefile is not None:
        save_base_shapes(found, savefile)
    return found


def save_base_shapes(model_or_shapes: nn.Module | BaseShapes, file: str | Path) -> None:
    """Write base shapes as JSON: for each parameter a list of base sizes, `null` for no width."""
    shapes = model_or_shapes
    if isinstance(shapes, nn.Module):
        shapes = get_base_shapes(shapes)
    if not isinstance(shapes, BaseShapes):
        raise TypeError(
            "Only base shapes can be saved, but no width is known for these. Pass a model "
            "after set_base_shapes, or the result of make_base_shapes."
        )
    rows = (f"  {json.dumps(name)}: {json.dumps(list(dims))}" for name, dims in shapes.items())
    write_text(Path(file), "{\n" + ",\n".join(rows) + "\n}\n")


def load_base_shapes(filename: str | Path) -> BaseShapes:
    """Read base shapes from JSON; files of the `mup` package (YAML) are read too.

    Raises:
        ValueError: when the file is missing or holds something else.
    """
    path = Path(filename)
    if not path.is_file():
        raise ValueError(f"`{path}` is no file. Write base shapes with save_base_shapes first.")
    try:
        saved = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert isinstance(saved, dict) and saved
        shapes = BaseShapes({str(name): tuple(dims) for name, dims in saved.items()})
        assert all(d is None or isinstance(d, int) for dims in shapes.values() for d in dims)
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, AssertionError) as error:
        raise ValueError(
            f"`{path}` holds no base shapes: a mapping from parameter names to lists of sizes. "
            "Write it again with save_base_shapes."
        ) from error
    return shapes


def attach(model: nn.Module, base_shapes: BaseShapes) -> None:
    """Keep base shapes on the modules that own the parameters; shared parameters have one."""
    named = dict(model.named_parameters())
    by_identity = {id(named[own]): base_shapes[name] for own, name in bare(named).items()}
    for module in model.modules():
        own = {
            local: by_identity[id(p)] for local, p in module._parameters.items() if p is not None
        }
        if own:
            module.mup_base_shapes = own  # type: ignore[assignment]
    _SCALED_ROOTS.add(model)


def get_base_shapes(model: nn.Module) -> BaseShapes:
    """Base shapes of a model as `set_base_shapes` left them, by parameter name.

    Raises:
        ValueError: when there are none.
    """
    found = BaseShapes()
    for name, module, local, _ in _owned(model):
        if local in base_of(module):
            found[name] = base_of(module)[local]
    if not found:
        raise ValueError("The model has no base shapes. Call set_base_shapes(model, base) first.")
    return found


def base_of(module: nn.Module) -> dict[str, Dims]:
    """Base shapes of the parameters that a module owns itself; empty where none were set."""
    own: dict[str, Dims] = module.__dict__.get("mup_base_shapes", {})
    return own


def role_in(module: nn.Module, local: str) -> Role:
    """Role of a parameter in one of the modules that own it; shared ones may have one in each."""
    return _grown(local, module, local, tuple(module.get_parameter(local).shape)).role


def growth(model: nn.Module) -> dict[str, Growth]:
    """Role and multipliers of each parameter whose base shape is known, by name."""
    return {
        name: _grown(name, module, local, tuple(p.shape))
        for name, module, local, p in _owned(model)
        if local in base_of(module)
    }


def by_identity() -> dict[int, tuple[Growth, Dims]]:
    """Growth and base shape of each parameter of all models that went through `set_base_shapes`."""
    found = {}
    for root in list(_SCALED_ROOTS):
        for name, module, local, p in _owned(root):
            # A parameter that another one replaced, of other dimensions, has no base shape.
            base = base_of(module).get(local)
            if base is not None and len(base) == p.ndim:
                found[id(p)] = (_grown(name, module, local, tuple(p.shape)), base)
    return found


def _grown(name: str, module: nn.Module, local: str, shape: tuple[int, ...]) -> Growth:
    base = base_of(module)[local]
    if len(base) != len(shape):
        raise ValueError(
            f"`{name}` has {len(shape)} dimensions, and its base shape {len(base)}. Set the base "
            "shapes of the model as it is now."
        )
    ratios = [1.0 if b is None else size / b for size, b in zip(shape, base, strict=True)]
    widths = [i for i, b in enumerate(base) if b is not None]
    inward, outward = _fans(module, base)
    sizes = {"rows": shape[0], "columns": _product(shape[1:])} if shape else {}
    sizes |= {"depth": module.__dict__.get("mup_depth", 1.0)}
    if not widths:
        return Growth("scalar", **sizes)
    if len(widths) == 1:
        ratio = ratios[widths[0]]
        if len(shape) == 1:
            return Growth("vector", fan_out=ratio, **sizes)
        if widths[0] == inward and not _groups_grow(module, base):
            return Growth("output", fan_in=ratio, **sizes)
        if inward < 0 and min(_product(shape[: widths[0]]), _product(shape[widths[0] + 1 :])) > 1:
            raise ValueError(
                f"`{name}` of shape {shape} grows in dimension {widths[0]} alone, which may be an "
                "input or an output. Put a width of outputs last, and use linears or convolutions "
                "where a width is the input."
            )
        return Growth("input", fan_out=ratio, **sizes)
    if len(widths) == 2 and set(widths) == {inward, outward}:
        return Growth("hidden", fan_in=ratios[inward], fan_out=ratios[outward], **sizes)
    if len(widths) == 2 and inward < 0 and ratios[widths[0]] == ratios[widths[1]]:
        # Stacked matrices, such as those of experts: whichever dimension the inputs are, m is m.
        return Growth("hidden", fan_in=ratios[widths[0]], fan_out=ratios[widths[1]], **sizes)
    raise ValueError(
        f"`{name}` of shape {shape} grows in the dimensions {widths}. At most an input and an "
        "output dimension may be a width. Keep the others fixed between the compared models."
    )


def _groups_grow(module: nn.Module, base: Dims) -> bool:
    """Whether a transposed convolution has more groups, each as large as in the base model."""
    if not isinstance(module, _ConvTransposeNd) or module.groups == 1 or base[0] is None:
        return False
    return module.groups == module.in_channels or base[0] % module.groups != 0


def input_axis(module: nn.Module, base: Dims) -> int:
    """Dimension of the inputs in a weight of a linear, bilinear or convolution."""
    if isinstance(module, nn.Bilinear) and len(base) == 3 and base[1] is None:
        return 2 if base[2] is not None else 1
    return 0 if isinstance(module, _ConvTransposeNd) else 1


def _fans(module: nn.Module, base: Dims) -> tuple[int, int]:
    """Input and output dimension of a module's weights; −1 where there is none."""
    ndim, inward = len(base), input_axis(module, base)
    if isinstance(module, _ConvTransposeNd):
        return inward, 1
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return -1, 1
    matrix = isinstance(
        module, (nn.Linear, nn.Bilinear, _ConvNd, nn.MultiheadAttention, nn.RNNBase)
    )
    # A parameter of one's own (a class token, positions) has outputs alone, unless both grow.
    return (inward, 0) if matrix or ndim == 2 else (-1, ndim - 1)


def _owned(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, Tensor]]:
    """Each parameter once: name without wrappers, owner, its name there, the parameter."""
    seen: set[int] = set()
    owned: dict[str, tuple[nn.Module, str, Tensor]] = {}
    for prefix, module in model.named_modules():
        for local, p in module._parameters.items():
            if p is not None and id(p) not in seen:
                seen.add(id(p))
                owned[f"{prefix}.{local}" if prefix else local] = module, local, p
    for own, name in bare(owned).items():
        yield name, *owned[own]


def bare(names: Iterable[str]) -> dict[str, str]:
    """Each name without what wrappers put before all names; a `module` of one's own stays."""
    own = list(names)
    found = own
    while found and (wrapper := next((p for p in _PREFIXES if found[0].startswith(p)), None)):
        if not all(name.startswith(wrapper) for name in found):
            break
        found = [name.removeprefix(wrapper) for name in found]
    return dict(zip(own, found, strict=True))


def _product(sizes: tuple[int, ...]) -> int:
    result = 1
    for size in sizes:
        result *= size
    return result


def _require_sizes(model: nn.Module) -> None:
    for name, p in model.named_parameters():
        if is_lazy(p):
            raise ValueError(
                f"`{name}` has no size yet: its module is lazy, and learns it from its input. Run "
                "the model on a batch first, and build base models without lazy modules."
            )


def _require_same_names(first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
    odd = sorted(first.keys() ^ second.keys())
    if odd:
        side = "base shapes" if odd[0] in first else "model"
        raise ValueError(
            f"`{odd[0]}` is in the {side} alone. Base shapes must be those of the same "
            "architecture at another width. Make them again from this model."
        )
