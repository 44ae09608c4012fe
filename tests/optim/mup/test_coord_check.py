"""The coordinate check passes in muP and fails in the standard parametrization."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mezzotint.optim.mup import MuAdam, MuReadout, MuSGD, set_base_shapes
from mezzotint.optim.mup.coord_check import (
    FDICT,
    CoordData,
    cov,
    get_coord_data,
    plot_coord_data,
    slopes,
    train_and_record,
)
from tests.optim.mup.models import ARCHITECTURES, MLP, batch

WIDTHS = {"mlp": (64, 128, 256, 512), "cnn": (16, 32, 64, 128), "transformer": (32, 64, 128, 256)}
RATES = {"sgd": 0.5, "adam": 0.02, "adamw": 0.02}


def models(name: str, mup: bool) -> dict[int, Any]:
    architecture = ARCHITECTURES[name]

    def make(width: int) -> Any:
        def build() -> nn.Module:
            base, delta = (architecture(w) for w in WIDTHS[name][:2])
            if not mup:
                return set_base_shapes(architecture(width), None)  # type: ignore[no-any-return]
            model: nn.Module = set_base_shapes(
                architecture(width, readout_zero_init=True), base, delta=delta
            )
            return model

        return build

    return {width: make(width) for width in WIDTHS[name]}


@pytest.mark.parametrize("name", list(ARCHITECTURES))
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_no_output_grows_with_the_width(name: str, optimizer: str) -> None:
    settings: dict[str, Any] = {"optimizer": optimizer, "lr": RATES[optimizer], "nsteps": 4}
    rows = get_coord_data(models(name, True), [batch(name)], nseeds=3, **settings)
    found = slopes(rows)
    assert len(found) > 9
    worst = max(found, key=lambda key: abs(found[key]))
    assert abs(found[worst]) < 0.15, (worst, found[worst])


@pytest.mark.parametrize("name", list(ARCHITECTURES))
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_in_the_standard_parametrization_some_output_does(name: str, optimizer: str) -> None:
    settings: dict[str, Any] = {"optimizer": optimizer, "lr": RATES[optimizer], "nsteps": 4}
    rows = get_coord_data(models(name, False), [batch(name)], mup=False, **settings)
    assert max(slopes(rows).values()) > 0.5


class Recurrent(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.rnn = nn.GRU(20, width, batch_first=True, bidirectional=True)
        self.readout = MuReadout(2 * width, 10, readout_zero_init=True)

    def forward(self, x: Tensor) -> Tensor:
        outputs, _ = self.rnn(x.unsqueeze(1).expand(-1, 4, -1))
        return self.readout(outputs[:, -1])  # type: ignore[no-any-return]


class Experts(nn.Module):
    """Four experts as stacked matrices, of which a router takes two."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(20, width)
        self.router = MuReadout(width, 4, readout_zero_init=True)
        self.up = nn.Parameter(torch.randn(4, width, 2 * width) / width**0.5)
        self.down = nn.Parameter(torch.randn(4, 2 * width, width) / (2 * width) ** 0.5)
        self.readout = MuReadout(width, 10, readout_zero_init=True)
        self.mixed = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.layer_norm(self.first(x), [self.down.shape[2]])
        weights = self.router(x).softmax(dim=1)
        weights = weights * (weights >= weights.topk(2, dim=1).values[:, 1:])
        inner = torch.einsum("bd,edh->beh", x, self.up).relu()
        x = x + self.mixed(torch.einsum("be,beh,ehd->bd", weights, inner, self.down))
        return self.readout(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("architecture", [Recurrent, Experts])
def test_networks_of_other_layers(architecture: Any) -> None:
    def make(width: int) -> nn.Module:
        model: nn.Module = set_base_shapes(
            architecture(width), architecture(32), delta=architecture(64)
        )
        return model

    widths = {width: lambda width=width: make(width) for width in (32, 64, 128, 256)}
    settings: dict[str, Any] = {"optimizer": "adam", "lr": 0.01, "nsteps": 3, "nseeds": 3}
    found = slopes(get_coord_data(widths, [batch("mlp")], **settings), first_step=1)
    worst = max(found, key=lambda k: abs(found[k]))
    assert abs(found[worst]) < 0.15, (worst, found[worst])


def test_statistics_in_closed_form() -> None:
    x = torch.tensor([[3.0, 4.0], [0.0, 5.0]])
    found = {name: float(f(x)) for name, f in FDICT.items()}
    assert cov(x).tolist() == [[12.5, 10.0], [10.0, 12.5]]
    assert found == pytest.approx(
        {
            "l1": 3.0, "l2": 12.5**0.5, "mean": 3.0, "std": (14.0 / 3) ** 0.5, "covl1": 11.25,
            "covl2": ((12.5**2 + 100) / 2) ** 0.5, "covoffdiagl1": 10.0, "covoffdiagl2": 10.0,
        }
    )  # fmt: skip
    assert float(FDICT["covl1"](torch.tensor(2.0))) == 4.0


class Reused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.first = nn.Linear(4, 4), nn.Identity()

    def forward(self, x: Tensor) -> Any:
        once = self.first(self.layer(x))
        return {"loss": self.layer(once).sum(), "hidden": (once, None)}


def test_the_last_use_of_a_module_counts_and_identities_tell_uses_apart() -> None:
    torch.manual_seed(0)
    model, x = Reused(), torch.randn(3, 4)
    once = model.layer(x).detach()
    rows = train_and_record(
        {4: lambda: model}, [{"x": x}], lambda m: torch.optim.SGD(m.parameters(), lr=0.0),
        nsteps=1, dict_in_out=True, input_fdict={"largest": lambda t: t.max()},
        param_fdict={"l2": "l2"},
    )  # fmt: skip
    by_module = {row["module"]: row for row in rows}
    assert len(by_module) == len(rows)
    assert by_module["layer"]["l1"] == pytest.approx(float(model.layer(once).detach().abs().mean()))
    assert by_module["first"]["l1"] == pytest.approx(float(once.abs().mean()))
    assert by_module["layer:in[0]"]["largest"] == pytest.approx(float(once.max()))
    assert "hidden[0]" in by_module and "layer:param[weight]" in by_module


def test_slopes_of_powers_of_the_width() -> None:
    rows = [
        {"width": w, "module": "a", "t": t, "l1": 3.0 * w**t * seed}
        for w in (8, 16, 64)
        for t in (1, 2)
        for seed in (1.0, 2.0)
    ]
    rows += [{"width": w, "module": "zero", "t": 2, "l1": 0.0} for w in (8, 16)]
    assert slopes(rows) == {("a", 2): pytest.approx(2.0)}
    assert slopes(rows, first_step=1)["a", 1] == pytest.approx(1.0)


@pytest.mark.parametrize("loss", ["mse", "l1", "nll", lambda out, y: out.sum()])
def test_losses_batches_and_filters(loss: Any) -> None:
    batches = [batch("mlp", seed) for seed in range(2)]
    rows = get_coord_data(
        {8: lambda: set_base_shapes(ARCHITECTURES["mlp"](8), ARCHITECTURES["mlp"](4))}, batches,
        optimizer="adam", lossfn=loss, fix_data=False, nsteps=5, flatten_input=True,
        filter_module_by_name=lambda name: name == "first", show_progress=False,
        filter_trainable_by_name=lambda name: name.startswith("second"),
    )  # fmt: skip
    assert [(row["module"], row["t"]) for row in rows] == [("first", 1), ("first", 2)]
    assert rows[0]["lr"] == 1e-3 and rows[0]["optimizer"] == "adam"


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="`optimizer` must be one of sgd, adam, adamw"):
        get_coord_data({}, [], optimizer="lion")
    with pytest.raises(ValueError, match="`lossfn` must be a function or one of xent"):
        get_coord_data(models("mlp", True), [batch("mlp")], lossfn="hinge")


def test_models_that_are_made_already_and_batches_without_labels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`models\[8\]` must be a function .* the model itself"):
        get_coord_data({8: nn.Linear(8, 8)}, [batch("mlp")])
    for loader in ([], [torch.zeros(3, 20)], [(torch.zeros(2),)]):
        with pytest.raises(ValueError, match="`dataloader` must give pairs of input and label"):
            get_coord_data(models("mlp", True), loader)


def test_the_picture_has_a_panel_a_step_and_a_line_a_module(tmp_path: Path) -> None:
    rows = get_coord_data(
        {w: make for w, make in models("mlp", True).items() if w < 200}, [batch("mlp")], nsteps=2
    )
    figure = plot_coord_data(
        rows, save_to=tmp_path / "check.png", suptitle="muP", face_color="lightgray"
    )
    assert (tmp_path / "check.png").stat().st_size > 1000
    first, second = figure.axes
    assert (first.get_title(), second.get_title()) == ("t=1", "t=2")
    names = {line.get_label() for line in second.lines}
    assert names == {"first", "second", "third", "readout"}
    (line,) = plot_coord_data(rows, name_contains="first", loglog=False).axes[0].lines
    assert list(line.get_xdata()) == [64, 128]
    without = plot_coord_data(rows, name_not_contains="first", legend=None).axes[0].lines
    assert {line.get_label() for line in without} == names - {"first"}


def test_rows_become_a_frame() -> None:
    pytest.importorskip("pandas")
    rows = CoordData([{"width": 8, "module": "a", "t": 1, "l1": 2.0}])
    frame = rows.to_frame()
    assert list(frame.columns) == ["width", "module", "t", "l1"]
    assert plot_coord_data(frame).axes[0].lines[0].get_label() == "a"


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_wider_is_not_worse(optimizer: str) -> None:
    """Training loss after fixed numbers of steps, at one learning rate, on a fixed batch."""
    make, lr = {"sgd": (MuSGD, 0.15), "adam": (MuAdam, 2e-3)}[optimizer]
    curves = {}
    for width in (64, 256, 1024):
        curves[width] = torch.zeros(40)
        for seed in range(3):
            torch.manual_seed(seed)
            model = MLP(width, readout_zero_init=True)
            set_base_shapes(model, MLP(64), delta=MLP(128))
            trained = make(model, lr=lr)
            x, y = batch("mlp")
            for step in range(40):
                loss = nn.functional.cross_entropy(model(x), y)
                trained.zero_grad()
                torch.autograd.backward(loss)
                trained.step()
                curves[width][step] += loss.detach()
    narrow, middle, wide = (curves[width] for width in (64, 256, 1024))
    # Within the noise of three seeds no width is worse than a narrower one, at any step.
    assert (middle <= 1.01 * narrow).all() and (wide <= 1.01 * middle).all()
    assert wide[-1] < middle[-1] < narrow[-1]
