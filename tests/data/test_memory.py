"""Sources in memory: reading, fingerprints, and moments against torch and NumPy."""

import numpy as np
import pytest
import torch

from mezzotint.data.image.embedded import EmbeddedImages
from mezzotint.data.memory import float_moments, moments


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
