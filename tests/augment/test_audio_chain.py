import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mezzotint.augment.byol_a import BYOLA
from mezzotint.augment.randomized_quantization.transform import RandomizedQuantization
from mezzotint.augment.views import ViewContext
from mezzotint.types import Batch, Input

INPUT = Input((1, 16, 40), (-7.0,), (3.0,), "audio")


def batch(first: int = 0, size: int = 8, frames: int = 40) -> Batch:
    x = torch.randn(size, 1, 16, frames, generator=torch.Generator().manual_seed(first)) * 3 - 7
    return Batch((x,), torch.arange(first, first + size))


def render(
    views: BYOLA, of: Batch, *, epoch: int = 0, normalized: bool = True
) -> tuple[torch.Tensor, ...]:
    return views.render(of, ViewContext(INPUT, 0, epoch), normalized=normalized)


def test_views_are_those_of_a_naive_pipeline() -> None:
    """Normalize, mix, crop from a canvas in memory, normalize both views; sample by sample."""
    views, past, now = BYOLA(frames=32, bank=16), batch(100), batch()
    render(views, past)
    found = render(views, now)
    assert views._stored is not None
    bank = views._stored[:8, 0].double()  # the batch before, normalized and cut
    drawn = BYOLA(frames=32, bank=16).draw(now.ids, ViewContext(INPUT, 0, 0))
    expected = np.zeros((2, 8, 16, 32))
    for view_index, params in enumerate(drawn):
        for row in range(8):
            first = int(params["frames"]["first"][row])
            x = (now.x[0][row, 0, :, first : first + 32].double() + 7.0) / 3.0
            share = float(params["mixup"]["fraction"][row])
            candidates = [((1 - share) * x.exp() + share * z.exp() + 1e-12).log() for z in bank]
            top, left, height, width = params["crop"]["box"][row].tolist()
            crops = []
            for mixed in candidates:
                canvas = torch.zeros(16, 48, dtype=torch.float64)
                canvas[:, 8:40] = mixed
                box = canvas[None, None, top : top + height, left : left + width]
                crops.append(F.interpolate(box, (16, 32), mode="bicubic", align_corners=True)[0, 0])
            shape = found[view_index][row, 0].double()
            scaled = [(c - c.mean()) / c.std() for c in crops]
            near = [float(((shape - shape.mean()) / shape.std() - c).abs().max()) for c in scaled]
            assert min(near) < 1e-3  # one of the bank it was
            expected[view_index, row] = crops[int(np.argmin(near))]
    expected = (expected - expected.mean()) / expected.std(ddof=1)
    np.testing.assert_allclose(torch.stack(found)[:, :, 0].numpy(), expected, atol=2e-3)


def test_views_differ_and_are_normalized_together() -> None:
    one, other = render(BYOLA(frames=32), batch())
    assert one.shape == other.shape == (8, 1, 16, 32) and not torch.allclose(one, other)
    both = torch.stack([one, other])
    assert abs(float(both.mean())) < 1e-5 and float(both.std()) == pytest.approx(1.0, abs=1e-4)
    again = render(BYOLA(frames=32), batch())
    torch.testing.assert_close(again[0], one, rtol=0, atol=0)
    assert not torch.allclose(render(BYOLA(frames=32), batch(), epoch=1)[0], one)


def test_bank_holds_the_newest_samples_once() -> None:
    views = BYOLA(frames=None, bank=20)
    batches = [batch(first) for first in range(0, 56, 8)]
    for count, one in enumerate(batches, start=1):
        render(views, one)
        assert views._stored is not None and len(views._stored) == min(20, 8 * count)
    newest = torch.cat([(b.x[0] + 7.0) / 3.0 for b in batches])[-20:]
    assert views._stored is not None
    stored = sorted(views._stored.flatten(1).sum(1).tolist())
    assert stored == pytest.approx(sorted(newest.flatten(1).sum(1).tolist()), abs=1e-3)
    large = BYOLA(frames=None, bank=5)
    render(large, batch())
    assert large._stored is not None and len(large._stored) == 5


def test_without_a_bank_nothing_is_remembered_and_a_batch_alone_says_its_views() -> None:
    views = BYOLA(frames=32, bank=0)
    first = render(views, batch())
    render(views, batch(50))
    torch.testing.assert_close(render(views, batch())[1], first[1], rtol=0, atol=0)


def test_randomized_quantization_by_mel_or_whole() -> None:
    for channel_dim, rows in ((2, (8 * 16, -1)), (1, (8, -1))):
        quantize = RandomizedQuantization(bins=8, channel_dim=channel_dim)
        views = BYOLA(
            frames=32, mixup=0.0, crop=None, randomized_quantization=quantize, batch_normalize=False
        )
        for view in render(views, batch()):
            levels = [len(torch.unique(row)) for row in view.reshape(rows)]
            assert 2 <= max(levels) <= 8
    per_mel = render(
        BYOLA(
            mixup=0.0,
            crop=None,
            randomized_quantization=RandomizedQuantization(bins=2, channel_dim=2),
        ),
        batch(),
    )
    assert len(torch.unique(per_mel[0][0])) > 2


def test_shown_values_are_those_of_the_data() -> None:
    shown = render(BYOLA(frames=32, mixup=0.0, crop=None), batch(), normalized=False)
    drawn = BYOLA(frames=32).draw(batch().ids, ViewContext(INPUT, 0, 0))
    first = int(drawn[0]["frames"]["first"][3])
    torch.testing.assert_close(
        shown[0][3], batch().x[0][3, :, :, first : first + 32], atol=1e-4, rtol=1e-4
    )
    torch.testing.assert_close(shown[0], shown[1])  # both views share the stretch


def test_refuses_what_is_no_spectrogram() -> None:
    with pytest.raises(ValueError, match=r"got \[\[2, 3, 8\]\]. Choose audio data\.$"):
        render(BYOLA(), Batch((torch.zeros(2, 3, 8),), torch.arange(2)))
    with pytest.raises(ValueError, match=r"^`mixup` must be 0 to 1, got 1.5. Try 0.4"):
        BYOLA(mixup=1.5)
