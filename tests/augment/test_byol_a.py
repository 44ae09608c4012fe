"""BYOL-A's fader against its definition, alone and in the chain of views."""

import pytest
import torch

from mezzotint.augment.byol_a import BYOLA, LinearFader
from mezzotint.augment.views import ViewContext
from mezzotint.seeding import Draws
from mezzotint.types import Batch, Input


def test_adds_the_line_between_its_ends_to_all_mels() -> None:
    x, fader = torch.randn(50, 1, 6, 9), LinearFader(gain=0.5)
    params = fader.draw(x.shape, Draws(torch.arange(50), 3))
    y = fader.apply(x, params)
    for row in range(50):
        line = torch.linspace(float(params["head"][row]), float(params["tail"][row]), 9)
        torch.testing.assert_close(y[row, 0], x[row, 0] + line, atol=1e-6, rtol=1e-5)
    ends = torch.cat([params["head"], params["tail"]])
    assert ends.min() >= -0.5 and ends.max() < 0.5 and ends.std() > 0.2
    assert not torch.equal(params["head"], params["tail"])
    assert torch.isfinite(fader(x[:, :, :, :1], Draws(torch.arange(50), 3))).all()


def test_each_view_has_a_line_of_its_own() -> None:
    x, input = torch.randn(8, 1, 16, 24), Input((1, 16, 24), (0.0,), (1.0,), "audio")
    plain, faded = (
        BYOLA(frames=None, mixup=0.0, crop=None, fader=fader, batch_normalize=False)
        for fader in (None, LinearFader(gain=1.0))
    )
    batch = Batch((x,), torch.arange(8))
    views = [generator.render(batch, ViewContext(input, 0, 0)) for generator in (plain, faded)]
    lines = [(a - b).squeeze(1) for a, b in zip(views[1], views[0], strict=True)]
    for line in lines:
        torch.testing.assert_close(
            line, line[:, :1].expand_as(line), atol=1e-5, rtol=0
        )  # the same for all mels
        torch.testing.assert_close(
            line.diff(n=2, dim=2), torch.zeros(8, 16, 22), atol=1e-5, rtol=0
        )  # and straight
    assert (lines[0] - lines[1]).abs().amax(dim=(1, 2)).min() > 1e-3
    assert "fader" in faded.draw(torch.arange(8), ViewContext(input, 0, 0))[0]


def test_a_gain_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="^`gain` must be above 0, got 0.0. Try 1.0"):
        LinearFader(gain=0.0)
