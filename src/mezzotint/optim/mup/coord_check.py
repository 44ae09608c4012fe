"""Coordinate check: do the outputs of all modules keep their size when the width grows?

A few steps are trained at several widths, and the mean absolute coordinate of every module's output
is recorded. In muP it does not depend on the width; in the standard parametrization it grows or
shrinks with it. `slopes` says by how much, as the slope of log2 size against log2 width.

The interface is that of the `mup` package. Differs from it in that rows are plain dictionaries
(`to_frame` makes a pandas DataFrame), in that the processor is used where there is no GPU, and in
that of a module which is used several times in a forward pass the last use alone is recorded, as
its documentation says. Wrap uses in `nn.Identity` modules of different names to tell them apart,
and choose a large learning rate: a small one hides growth behind the initialization.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mezzotint.optim.mup.optimizers import MuAdam, MuAdamW, MuSGD

Statistic = Callable[[Tensor], Tensor]
Statistics = Mapping[str, str | Statistic]
Row = dict[str, Any]


def cov(x: Tensor) -> Tensor:
    """Gram matrix of the vectors along the last dimension, divided by their length: `[N, N]`."""
    rows = x.reshape(1, 1) if x.numel() == 1 else x.reshape(-1, x.shape[-1])
    return rows @ rows.T / rows.shape[1]


def covoffdiag(x: Tensor) -> Tensor:
    """Entries of `cov` off the diagonal, `[N · (N − 1)]`."""
    gram = cov(x)
    return gram[~torch.eye(len(gram), dtype=torch.bool, device=gram.device)]


FDICT: dict[str, Statistic] = {
    "l1": lambda x: x.abs().mean(),
    "l2": lambda x: x.square().mean().sqrt(),
    "mean": lambda x: x.mean(),
    "std": lambda x: x.std(),
    "covl1": lambda x: cov(x).abs().mean(),
    "covl2": lambda x: cov(x).square().mean().sqrt(),
    "covoffdiagl1": lambda x: covoffdiag(x).abs().mean(),
    "covoffdiagl2": lambda x: covoffdiag(x).square().mean().sqrt(),
}


class CoordData(list[Row]):
    """Rows with `width`, `module`, `t` (the step, from 1), `seed` and one entry a statistic."""

    def to_frame(self) -> Any:
        """The rows as a pandas DataFrame."""
        import pandas

        return pandas.DataFrame(list(self))


class Recorder:
    """Hooks that record the outputs of a model's modules, the last call of each.

    Args:
        model: the model.
        wanted: says by name which modules to record; `None` records all.
    """

    def __init__(self, model: nn.Module, wanted: Callable[[str], bool] | None = None) -> None:
        self.inputs: dict[str, Any] = {}
        self.outputs: dict[str, Any] = {}
        self._handles = [
            module.register_forward_hook(self._hook(name))
            for name, module in model.named_modules()
            if wanted is None or wanted(name)
        ]

    def _hook(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            self.inputs[name], self.outputs[name] = inputs, output

        return keep

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()


def get_coord_data(
    models: Mapping[int, Callable[[], nn.Module]],
    dataloader: Iterable[Any],
    optimizer: str = "sgd",
    lr: float | None = None,
    mup: bool = True,
    filter_trainable_by_name: Callable[[str], bool] | None = None,
    **kwargs: Any,
) -> CoordData:
    """Train models of several widths for a few steps and record the size of their outputs.

    Args:
        models: for each width a function that makes the model (with its base shapes set).
        dataloader: batches: (input, label), or dictionaries with `dict_in_out`.
        optimizer: `"sgd"`, `"adam"` or `"adamw"`.
        lr: learning rate; by default 0.1 for SGD and 0.001 for the others.
        mup: whether rates are scaled by muP; `False` makes the control.
        filter_trainable_by_name: says by name which parameters are trained.
        kwargs: of `train_and_record`.
    """
    if lr is None:
        lr = 0.1 if optimizer == "sgd" else 1e-3
    makers: dict[str, Any] = {"sgd": MuSGD, "adam": MuAdam, "adamw": MuAdamW}
    plain = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    if optimizer not in makers:
        raise ValueError(
            f"`optimizer` must be one of {', '.join(makers)}, got {optimizer!r}. For another one "
            "call train_and_record with a function that makes it."
        )
    make = (makers if mup else plain)[optimizer]

    def build(model: nn.Module) -> torch.optim.Optimizer:
        for name, p in model.named_parameters():
            if filter_trainable_by_name is not None and not filter_trainable_by_name(name):
                p.requires_grad_(False)
        trained = [p for p in model.parameters() if p.requires_grad]
        built: torch.optim.Optimizer = make(model if mup else trained, lr=lr)
        return built

    rows = train_and_record(models, dataloader, build, **kwargs)
    for row in rows:
        row |= {"optimizer": optimizer, "lr": lr}
    return rows


def train_and_record(
    models: Mapping[int, Callable[[], nn.Module]],
    dataloader: Iterable[Any],
    optcls: Callable[[nn.Module], torch.optim.Optimizer],
    *,
    nsteps: int = 3,
    nseeds: int = 1,
    dict_in_out: bool = False,
    flatten_input: bool = False,
    flatten_output: bool = False,
    output_name: str = "loss",
    lossfn: str | Callable[[Tensor, Tensor], Tensor] = "xent",
    filter_module_by_name: Callable[[str], bool] | None = None,
    fix_data: bool = True,
    cuda: bool | None = None,
    output_fdict: Statistics | None = None,
    input_fdict: Statistics | None = None,
    param_fdict: Statistics | None = None,
    show_progress: bool = False,
) -> CoordData:
    """As `get_coord_data`, with any optimizer.

    Args:
        models: for each width a function that makes the model.
        dataloader: batches.
        optcls: makes the optimizer of a model.
        nsteps: steps of training.
        nseeds: repetitions, each with a seed of its own.
        dict_in_out: batches and outputs are dictionaries, as in Hugging Face's models.
        flatten_input: make a vector of each input.
        flatten_output: make a row of each output vector, as for language models.
        output_name: key of the loss with `dict_in_out`.
        lossfn: `"xent"`, `"mse"`, `"nll"`, `"l1"`, or a function of output and label.
        filter_module_by_name: says by name which modules are recorded.
        fix_data: train on the first batch again and again.
        cuda: use the GPU, by default if there is one.
        output_fdict: statistics of outputs, by name; by default `l1`.
        input_fdict: statistics of inputs.
        param_fdict: statistics of parameters.
        show_progress: print the widths as they are done.
    """
    batches = list(islice(dataloader, 1 if fix_data else nsteps))
    _require(models, batches, dict_in_out)
    batches = batches * nsteps if fix_data else batches
    on_gpu = torch.cuda.is_available() if cuda is None else cuda
    device = torch.device("cuda" if on_gpu else "cpu")
    recorded = _statistics(output_fdict, input_fdict, param_fdict)
    losses = _Losses(lossfn, output_name if dict_in_out else None, flatten_input, flatten_output)
    rows = CoordData()
    for seed in range(nseeds):
        torch.manual_seed(seed)
        for width, make in models.items():
            model = make().train().to(device)
            optimizer = optcls(model)
            for t, batch in enumerate(batches, 1):
                with Recorder(model, filter_module_by_name) as seen:
                    loss = losses(model, _to(batch, device))
                rows += _rows(model, seen, recorded, {"width": width, "t": t, "seed": seed})
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
            if show_progress:
                print(f"seed {seed}: width {width} is done")
    return rows


def _require(models: Mapping[int, Any], batches: Sequence[Any], dict_in_out: bool) -> None:
    made = [width for width, make in models.items() if isinstance(make, nn.Module)]
    if made:
        raise ValueError(
            f"`models[{made[0]}]` must be a function that makes the model, got the model itself. "
            f"Pass `lambda: make({made[0]})`."
        )
    if not any(dict_in_out or (isinstance(b, (tuple, list)) and len(b) == 2) for b in batches):
        raise ValueError(
            "`dataloader` must give pairs of input and label. Pass a list such as [(x, y)], or "
            "`dict_in_out=True` for dictionaries."
        )


def _statistics(
    outputs: Statistics | None, inputs: Statistics | None, parameters: Statistics | None
) -> list[tuple[str, dict[str, Statistic]]]:
    named = [("", {"l1": "l1"} if outputs is None else outputs)]
    named += [(":in", inputs or {}), (":param", parameters or {})]
    return [
        (suffix, {name: FDICT[f] if isinstance(f, str) else f for name, f in functions.items()})
        for suffix, functions in named
    ]


def _to(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: _to(item, device) for key, item in value.items()}
    return [_to(item, device) for item in value] if isinstance(value, (list, tuple)) else value


@dataclass(frozen=True)
class _Losses:
    """How the loss of a batch is computed; `key` is that of outputs that are dictionaries."""

    function: str | Callable[[Tensor, Tensor], Tensor]
    key: str | None
    flatten_input: bool
    flatten_output: bool

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        if self.key is not None:
            outputs = model(**batch)
            loss: Tensor = outputs[self.key] if isinstance(outputs, Mapping) else outputs[0]
            return loss
        data, target = batch
        output = model(data.flatten(1) if self.flatten_input else data)
        output = output.reshape(-1, output.shape[-1]) if self.flatten_output else output
        if callable(self.function):
            return self.function(output, target)
        if self.function in ("mse", "l1") and not target.is_floating_point():
            target = F.one_hot(target, output.shape[-1]).float()
        known: dict[str, Callable[[Tensor, Tensor], Tensor]]
        known = {"xent": F.cross_entropy, "mse": F.mse_loss, "nll": F.nll_loss, "l1": F.l1_loss}
        if self.function not in known:
            raise ValueError(
                f"`lossfn` must be a function or one of {', '.join(known)}, got {self.function!r}."
            )
        return known[self.function](output, target)


@torch.no_grad()
def _rows(
    model: nn.Module,
    seen: Recorder,
    recorded: Sequence[tuple[str, dict[str, Statistic]]],
    facts: Row,
) -> list[Row]:
    rows = []
    parts = dict(model.named_modules())
    for name, output in seen.outputs.items():
        own = {f":param[{local}]": p for local, p in parts[name].named_parameters(recurse=False)}
        inputs = seen.inputs[name]
        for (suffix, functions), value in zip(recorded, (output, inputs, own), strict=True):
            if not functions:
                continue
            for path, tensor in _tensors(value):
                module = name + ("" if suffix == ":param" else suffix) + path
                found = {key: f(tensor.detach().float()).item() for key, f in functions.items()}
                rows.append({**facts, "module": module, **found})
    return rows


def _tensors(value: Any) -> Iterable[tuple[str, Tensor]]:
    """Floating-point tensors in an output, with the path to each; `None` is passed over."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield "", value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from ((str(key) + path, t) for path, t in _tensors(item))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from ((f"[{index}]{path}", t) for path, t in _tensors(item))


def slopes(
    rows: Iterable[Row], y: str = "l1", first_step: int = 2, x: str = "width"
) -> dict[tuple[str, int], float]:
    """Slope of log2 of a statistic against log2 of the width, by module and step.

    Args:
        rows: of `get_coord_data`; values are averaged over seeds first.
        y: the statistic.
        first_step: steps before it are left out; at 1 nothing was trained yet, and outputs may
            shrink with the width.
        x: key of the width, or of the depth.

    Returns:
        The slopes; modules whose output is exactly 0 at some width are left out.
    """
    sums: dict[tuple[str, int], dict[int, list[float]]] = {}
    for row in rows:
        if row["t"] >= first_step:
            by_width = sums.setdefault((row["module"], row["t"]), {})
            by_width.setdefault(row[x], []).append(row[y])
    found = {}
    for key, by_width in sums.items():
        means = {width: sum(values) / len(values) for width, values in by_width.items()}
        if len(means) > 1 and min(means.values()) > 0.0:
            points = [math.log2(w) for w in means], [math.log2(m) for m in means.values()]
            found[key] = statistics.linear_regression(*points).slope
    return found


def plot_coord_data(
    df: Any,
    y: str = "l1",
    save_to: str | Path | None = None,
    suptitle: str | None = None,
    x: str = "width",
    hue: str = "module",
    legend: str | bool | None = "full",
    name_contains: str | None = None,
    name_not_contains: str | None = None,
    loglog: bool = True,
    logbase: int = 2,
    face_color: str | None = None,
) -> Any:
    """Draw a coordinate check as a matplotlib figure: a panel per step, a line per module.

    Args:
        df: rows of `get_coord_data`, or a DataFrame of them.
        y: the statistic.
        save_to: file of the picture.
        suptitle: title above the panels.
        x: column along the axis.
        hue: column that has a line for each of its values.
        legend: whether to name the lines.
        name_contains: draw modules whose name contains it.
        name_not_contains: draw modules whose name does not contain it.
        loglog: whether both axes are logarithmic.
        logbase: their base.
        face_color: color around the panels.
    """
    from matplotlib.figure import Figure

    rows: list[Row] = df.to_dict("records") if hasattr(df, "to_dict") else list(df)
    rows = [r for r in rows if r["module"] != "" and (name_contains or "") in r["module"]]
    if name_not_contains:
        rows = [r for r in rows if name_not_contains not in r["module"]]
    steps = sorted({row["t"] for row in rows})
    figure = Figure(figsize=(5 * max(1, len(steps)), 4), layout="constrained")
    if face_color is not None:
        figure.set_facecolor(face_color)
    for number, t in enumerate(steps, 1):
        axes = figure.add_subplot(1, len(steps), number)
        _lines(axes, [row for row in rows if row["t"] == t], x, y, hue)
        axes.set(title=f"t={t}", xlabel=x, ylabel=y if number == 1 else "")
        if loglog:
            axes.set_xscale("log", base=logbase)
            axes.set_yscale("log", base=logbase)
        if legend and number == 1:
            axes.legend(fontsize="x-small")
    if suptitle:
        figure.suptitle(suptitle)
    if save_to is not None:
        figure.savefig(save_to)
    return figure


def _lines(axes: Any, rows: Sequence[Row], x: str, y: str, hue: str) -> None:
    """A line for each value of `hue`: the mean of `y` at each `x`."""
    for name in dict.fromkeys(row[hue] for row in rows):
        values: dict[Any, list[float]] = {}
        for row in rows:
            if row[hue] == name:
                values.setdefault(row[x], []).append(row[y])
        means = [sum(values[key]) / len(values[key]) for key in sorted(values)]
        axes.plot(sorted(values), means, marker=".", label=name)
