"""NormRescale: norms match the anchor's; directions and the function are preserved."""

from copy import deepcopy
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity
from typer.testing import CliRunner

from mezzotint import load_encoder
from mezzotint.cli import app
from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.resnet import resnet8, resnet50
from mezzotint.encoders.rows import TableMLP
from mezzotint.encoders.saving import save_encoder
from mezzotint.interop.norm_rescale import norm_rescale, norms, scale_invariant
from mezzotint.types import Input

INPUT = Input((3, 32, 32), (0.5,) * 3, (0.25,) * 3)


def trained(seed: int, scale: float = 1.0) -> Encoder:
    """Weights of another scale in each layer, and running statistics that fit them."""
    torch.manual_seed(seed)
    encoder = resnet50(INPUT, stem="small", width=4)
    with torch.no_grad():
        for place, p in enumerate(encoder.parameters()):
            if p.ndim > 1:
                p.mul_(scale * (1 + place % 5))
    encoder.train()
    for step in range(5):
        encoder(torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(step)))
    return encoder.eval()


def batch() -> Tensor:
    return torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(99))


def test_which_weights_are_scale_invariant() -> None:
    encoder = resnet8(INPUT, stem="small", width=4)
    found = scale_invariant(encoder)
    assert found["conv1"] == "bn1" and found["layer2.0.downsample.0"] == "layer2.0.downsample.1"
    assert len(found) == sum(m.__class__.__name__ == "Conv2d" for m in encoder.modules())
    assert encoder.training


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_norms_are_the_anchors_and_the_function_is_unchanged(mode: str) -> None:
    encoder, anchor = trained(0), trained(1, scale=3.0)
    for norm in (m for m in encoder.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.eps = 1e-12  # which is what a scale is not invariant to
    copy = deepcopy(encoder)
    with torch.no_grad():
        before = copy.train(mode == "train")(batch())
    weights = {n: p.clone() for n, p in encoder.named_parameters()}
    changes = norm_rescale(encoder, anchor)
    for name, p in encoder.named_parameters():
        if p.ndim > 1:
            torch.testing.assert_close(p.norm(), anchor.get_parameter(name).norm())
            assert cosine_similarity(p.flatten(), weights[name].flatten(), dim=0) > 0.99999
        else:
            assert torch.equal(p, weights[name])
    assert max(c.ratio for c in changes) > 2.5
    with torch.no_grad():
        after = encoder.train(mode == "train")(batch())
    assert (after - before).norm() < 1e-4 * before.norm()


def test_everything_changes_the_function_and_skips_counters() -> None:
    encoder, anchor = trained(0), trained(1, scale=3.0)
    before = encoder(batch())
    counter = encoder.state_dict()["bn1.num_batches_tracked"].clone()
    changes = norm_rescale(encoder, anchor, everything=True)
    assert len(changes) == sum(t.is_floating_point() for t in encoder.state_dict().values())
    for change in changes:
        assert float(encoder.state_dict()[change.name].norm()) == pytest.approx(
            float(anchor.state_dict()[change.name].norm()) or change.norm, rel=1e-4
        )
    assert torch.equal(encoder.state_dict()["bn1.num_batches_tracked"], counter)
    assert not torch.allclose(encoder(batch()), before, rtol=1e-2)


def test_a_zero_norm_is_left_alone() -> None:
    encoder, anchor = trained(0), trained(1)
    with torch.no_grad():
        anchor.get_parameter("conv1.weight").zero_()
    before = encoder.get_parameter("conv1.weight").clone()
    ratios = {c.name: c.ratio for c in norm_rescale(encoder, anchor)}
    assert ratios["conv1.weight"] == 1.0 and torch.equal(
        encoder.get_parameter("conv1.weight"), before
    )


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="The anchor has another architecture"):
        norm_rescale(trained(0), resnet8(INPUT, stem="small", width=4))
    bad = trained(0)
    with torch.no_grad():
        bad.get_parameter("conv1.weight").view(-1)[0] = torch.nan
    with pytest.raises(ValueError, match="contain NaN or inf"):
        norm_rescale(trained(0), bad)
    flat = TableMLP(Input((4,), (0.0,) * 4, (1.0,) * 4, "table"))
    if not scale_invariant(flat):
        with pytest.raises(ValueError, match="followed by a BatchNorm"):
            norm_rescale(flat, flat)
    with pytest.raises(ValueError, match="`other` has other layers than the anchor"):
        norms({"other": resnet8(INPUT, stem="small", width=4)}, trained(0))


def test_command_line_writes_the_encoder_a_table_and_a_picture(tmp_path: Path) -> None:
    encoder, anchor = trained(0), trained(1, scale=3.0)
    save_encoder(encoder, tmp_path / "lars")
    save_encoder(anchor, tmp_path / "sgd")
    arguments = [
        "norm-rescale",
        str(tmp_path / "lars"),
        "--anchor",
        str(tmp_path / "sgd"),
        "--out",
        str(tmp_path / "o"),
    ]
    done = CliRunner().invoke(app, [*arguments, "--compare", str(tmp_path / "sgd")])
    assert done.exit_code == 0, done.output
    assert "53 tensors rescaled; the function is the same" in done.output
    again = load_encoder(tmp_path / "o")
    before = encoder(batch())
    assert (again(batch()) - before).norm() < 0.01 * before.norm()
    assert "conv1.weight" in (tmp_path / "o" / "norms.txt").read_text()
    picture = ElementTree.fromstring((tmp_path / "o" / "norms.svg").read_text())
    assert len(picture.findall("{http://www.w3.org/2000/svg}polyline")) == 2
    assert "must be a new directory" in str(CliRunner().invoke(app, arguments).exception)
