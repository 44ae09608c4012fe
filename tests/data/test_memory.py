"""Sources in memory: reading, fingerprints, and moments against torch and NumPy."""

import numpy as np
import pytest
import torch

from mezzotint.data.image.embedded import EmbeddedImages
from mezzotint.data.memory import float_moments, moments, usable_std


def test_samples_and_ids_are_numbered() -> None:
    source = EmbeddedImages(name="digits")
    assert source.id_of(7) == "digits/000007" and source.read(7)["label"] == source.labels[7]
    assert torch.equal(source.read_batch(torch.tensor([9, 2])), source.images[[9, 2]])
    with pytest.raises(IndexError, match="sample 1797 of 1797"):
        source.id_of(1797)


def test_other_samples_leave_the_source_alone() -> None:
    source = EmbeddedImages(name="digits")
    part = source.with_samples(source.images[:5], source.labels[:5])
    assert len(part) == 5 and len(source) == 1797 and part.input == source.input
    assert part.images.data_ptr() == source.images.data_ptr()


def test_the_fingerprint_depends_on_pixels_shape_and_labels() -> None:
    source = EmbeddedImages(name="digits")
    pixels, labels = source.images.clone(), source.labels.copy()
    pixels[3, 0, 2, 2] ^= 1
    labels[3] += 1
    others = [
        source.with_samples(pixels, source.labels),
        source.with_samples(source.images, labels),
        source.with_samples(source.images.view(-1, 1, 4, 16), source.labels),
    ]
    prints = {source.fingerprint(), *(other.fingerprint() for other in others)}
    assert len(prints) == 4 and all(len(text) == 16 for text in prints)


def test_moments_are_exact() -> None:
    images = torch.randint(256, (5000, 3, 4, 4), dtype=torch.uint8)
    mean, std = moments(images)
    values = images.double() / 255.0
    assert mean == pytest.approx(values.mean(dim=(0, 2, 3)).tolist(), abs=1e-12)
    assert std == pytest.approx(values.std(dim=(0, 2, 3), correction=0).tolist(), abs=1e-9)


def test_moments_of_floats() -> None:
    x = torch.randn(5000, 2, 7) * 3.0 + 1e4
    x[:, 1] = 5.0
    mean, std = float_moments(x)
    wanted = x[:, 0].double().numpy()
    assert mean == pytest.approx([wanted.mean(), 5.0])
    assert std == pytest.approx(
        [float(np.std(wanted)), 1.0]
    )  # a constant channel is not divided by 0


def test_a_std_of_rounding_size_is_no_std() -> None:
    nearly = 0.1 + np.array([0.0, 1.4e-17, -1.4e-17] * 50)  # neighboring doubles of 0.1
    assert usable_std(nearly.std(), np.abs(nearly).max()) == 1.0
    assert usable_std(np.array(1e-9), np.array(0.1)) == 1e-9
    column = np.full(1000, 0.1)
    assert column.std() > 0.0 and usable_std(column.std(), np.array(0.1)) == 1.0
    x = torch.full((300, 2, 7), 0.1)
    x[:, 1] = torch.randn(300, 7) * 1e-3
    _, std = float_moments(x)
    assert std[0] == 1.0 and std[1] == pytest.approx(1e-3, rel=0.1)
    x[::2, 0] = torch.nextafter(torch.tensor(0.1), torch.tensor(1.0))
    assert float_moments(x)[1][0] == 1.0  # one unit in the last place
    images = torch.full((900, 1, 3, 3), 7, dtype=torch.uint8)
    assert moments(images)[1] == (1.0,)
