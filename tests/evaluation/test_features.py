"""Extraction: the encoder is left as it was, every sample once, at any number of processes."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as td
from torch import Tensor, nn

from mezzotint.data.image_text import EmojiNames
from mezzotint.data.memory import InMemory
from mezzotint.data.source import Source
from mezzotint.data.table.table import TableSample
from mezzotint.encoders.encoder import Encoder
from mezzotint.evaluation import features as features_module
from mezzotint.evaluation.features import (
    Reading,
    Whitening,
    extract,
    extract_readable,
    input_features,
    raw_features,
)
from mezzotint.modality.image import image_statistics
from mezzotint.modality.modality import modality_names, modality_of
from mezzotint.recipe.schema import construct, resolve
from mezzotint.types import Input, Sample, Unreadable
from tests.ranks import spawn

INPUT = Input((3, 8, 8), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


class Small(Encoder):
    """With everything that behaves differently in training: BatchNorm and dropout."""

    def __init__(self) -> None:
        super().__init__(INPUT, dim=6)
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.drop(self.norm(self.conv(x))).mean(dim=(2, 3))
        return features


def pixels(count: int, size: int = 8) -> Tensor:
    return torch.randint(
        256, (count, 3, size, size), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
    )


class Files(Source):
    """A source that reads one sample at a time; some are broken."""

    def __init__(self, count: int, bad: tuple[int, ...] = (), size: int = 8) -> None:
        self.images, self.bad = pixels(count, size), bad
        self.input = Input((3, size, size), INPUT.mean, INPUT.std)

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> Sample:
        if index in self.bad:
            raise Unreadable(f"image-{index}", "truncated")
        return {"x": self.images[index], "id": f"image-{index}", "label": None}

    def fingerprint(self) -> str:
        return "0"


class Memory(InMemory, Files):
    """The same in memory."""


def expected(source: Files, encoder: Encoder) -> Tensor:
    """One sample at a time, normalized by hand."""
    rows = []
    with torch.no_grad():
        for image in source.images:
            x = torch.stack([(image[c] / 255 - INPUT.mean[c]) / INPUT.std[c] for c in range(3)])
            rows.append(encoder.eval()(x.unsqueeze(0)))
    return torch.cat(rows)


@pytest.mark.parametrize("kind", [Files, Memory])
@pytest.mark.parametrize("batch_size", [1, 4, 256])
def test_features_are_those_of_a_plain_loop(kind: type[Files], batch_size: int) -> None:
    source, encoder = kind(11), Small()
    found = extract(encoder, source, reading=Reading(batch_size))
    torch.testing.assert_close(found, expected(source, encoder))
    assert found.dtype == torch.float32 and not found.is_inference()


def test_indices_are_answered_in_their_order() -> None:
    source, encoder = Memory(11), Small()
    wanted = torch.tensor([7, 0, 10, 3])
    torch.testing.assert_close(
        extract(encoder, source, indices=wanted), expected(source, encoder)[wanted]
    )
    found = extract_readable(encoder, Files(11, bad=(10,)), indices=wanted, reading=Reading(2))
    assert found.indices.tolist() == [7, 0, 3]


def test_the_encoder_is_left_as_it_was() -> None:
    source, encoder = Memory(11), Small()
    encoder.train()
    encoder.norm.eval()  # frozen by its user; it must stay so
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    first, second = extract(encoder, source), extract(encoder, source)
    assert torch.equal(first, second)  # no dropout, no batch statistics
    assert [module.training for module in encoder.modules()] == [True, True, False, True]
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert all(parameter.grad is None for parameter in encoder.parameters())


def test_the_modes_come_back_after_an_error() -> None:
    encoder = Small().train()
    with pytest.raises(RuntimeError):
        extract(encoder, Memory(3, size=2))  # too small for the kernel
    assert encoder.training


def test_unreadable_samples_are_left_out_and_named() -> None:
    encoder = Small()
    found = extract_readable(encoder, Files(11, bad=(0, 4, 5, 10)), reading=Reading(2))
    assert found.indices.tolist() == [1, 2, 3, 6, 7, 8, 9]
    assert [bad.id for bad in found.bad] == ["image-0", "image-4", "image-5", "image-10"]
    torch.testing.assert_close(found.x, expected(Files(11), encoder)[found.indices])
    with pytest.raises(Unreadable, match="image-0: truncated"):
        extract(encoder, Files(11, bad=(0, 4)))


def test_nothing_readable() -> None:
    found = extract_readable(Small(), Files(3, bad=(0, 1, 2)))
    assert len(found.x) == len(found.indices) == 0 and len(found.bad) == 3


def test_workers_change_nothing() -> None:
    encoder = Small()
    plain = extract_readable(encoder, Files(9, bad=(2,)), reading=Reading(2))
    many = extract_readable(encoder, Files(9, bad=(2,)), reading=Reading(2, workers=2))
    assert torch.equal(plain.x, many.x) and torch.equal(plain.indices, many.indices)


def test_progress_counts_every_sample() -> None:
    calls: list[tuple[int, int]] = []
    extract_readable(
        Small(),
        Files(7, bad=(1,)),
        reading=Reading(3, progress=lambda done, total: calls.append((done, total))),
    )
    assert calls == [(3, 7), (6, 7), (7, 7)]


def test_raw_features_are_the_normalized_pixels() -> None:
    source = Memory(5)
    mean, std = torch.tensor(INPUT.mean).view(3, 1, 1), torch.tensor(INPUT.std).view(3, 1, 1)
    torch.testing.assert_close(
        raw_features(source).x, ((source.images / 255 - mean) / std).flatten(1)
    )


@pytest.mark.parametrize(
    ("size", "features"), [(64, 3 * 64 * 64), (96, 3 * 32 * 32), (65, 3 * 32 * 32)]
)
def test_large_images_are_averaged_over_areas(size: int, features: int) -> None:
    source = Memory(2, size=size)
    found = raw_features(source).x
    assert found.shape == (2, features)
    if size == 96:  # three by three pixels an area
        areas = source.images.float().view(2, 3, 32, 3, 32, 3).mean(dim=(3, 5)) / 255
        mean, std = torch.tensor(INPUT.mean).view(3, 1, 1), torch.tensor(INPUT.std).view(3, 1, 1)
        torch.testing.assert_close(found, ((areas - mean) / std).flatten(1), atol=1e-5, rtol=1e-5)


def test_handmade_features_come_from_the_same_pass_over_the_samples() -> None:
    source = Files(7, bad=(1, 5))
    reads: list[int] = []
    original = source.read

    def read(index: int) -> Sample:
        reads.append(index)
        return original(index)

    source.read = read  # type: ignore[method-assign]
    raw, handmade = input_features(source, Reading(batch_size=3))
    assert sorted(reads) == list(range(7))  # each once, for both
    alone = raw_features(Files(7, bad=(1, 5)))
    assert torch.equal(raw.x, alone.x) and handmade is not None
    assert handmade.indices.tolist() == raw.indices.tolist() == [0, 2, 3, 4, 6]
    assert [bad.id for bad in handmade.bad] == [bad.id for bad in alone.bad]
    x = torch.stack([Files(7).read(index)["x"] for index in (0, 2, 3, 4, 6)])
    torch.testing.assert_close(handmade.x, image_statistics(INPUT.prepare(x)))


@pytest.mark.parametrize("name", modality_names())
def test_raw_and_handmade_features_of_every_modality(name: str) -> None:
    """The example of each: parts of one pass, split where the raw input ends."""
    data = resolve(modality_of(name).example.data, "Source", "data")
    source: Source = construct(data, "Source", {})
    indices = torch.tensor([0, 2])
    raw, handmade = input_features(source, indices=indices)
    assert torch.equal(raw.x, raw_features(source, indices=indices).x)
    x = source.input.prepare(torch.stack([source.read(int(index))["x"] for index in indices]))
    expected = modality_of(name).handmade_features(x, source.input)
    assert (expected is None) == (handmade is None)
    if handmade is not None and expected is not None:
        torch.testing.assert_close(handmade.x, expected)


def test_tables_have_no_handmade_features_and_unreadable_data_has_none_either() -> None:
    table = TableSample()
    raw, handmade = input_features(table)
    assert handmade is None and torch.equal(raw.x, raw_features(table).x)
    raw, handmade = input_features(Files(2, bad=(0, 1)))
    assert handmade is not None and raw.x.numel() == handmade.x.numel() == 0


CASES = [(count, bad) for count in range(1, 10) for bad in ((), (0,), (1, 4))]


def test_raw_features_of_images_with_text_are_pixels_and_shares_of_tokens() -> None:
    source = EmojiNames(length=8)
    x = raw_features(source, indices=torch.tensor([5])).x[0]
    colors = source.input.normalize(source.read_batch(torch.tensor([5])))[0, :3]
    assert torch.equal(x[: 3 * 32 * 32], colors.flatten())
    there = source.tokens[5][source.tokens[5] != 0].long()
    assert torch.allclose(x[3 * 32 * 32 :], torch.bincount(there, minlength=258) / len(there))


def _worker(rank: int, folder: str, world: int) -> None:
    torch.set_num_threads(1)
    td.init_process_group(
        "gloo",
        init_method=f"file://{folder}/init",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=20),
    )
    results: list[Any] = []
    for count, bad in CASES:
        found = extract_readable(Small(), Files(count, bad), reading=Reading(2))
        results.append((found.x, found.indices, sorted(item.id for item in found.bad)))
    torch.save(results, f"{folder}/{rank}.pt")
    td.barrier()
    td.destroy_process_group()


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_the_work_and_all_get_every_row_once(world: int, tmp_path: Path) -> None:
    spawn(_worker, args=(str(tmp_path), world), nprocs=world)
    for rank in range(world):
        results = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for (count, bad), (x, indices, names) in zip(CASES, results, strict=True):
            alone = extract_readable(Small(), Files(count, bad), reading=Reading(2))
            assert torch.equal(indices, alone.indices) and names == sorted(
                item.id for item in alone.bad
            )
            torch.testing.assert_close(x, alone.x)


@pytest.mark.parametrize("shrinkage", [0.01, 0.3, 3.0])
def test_whitening_is_the_symmetric_root_of_the_covariance(shrinkage: float) -> None:
    x = torch.randn(300, 20, generator=torch.Generator().manual_seed(1)) @ torch.randn(20, 20) + 3.0
    whitening = Whitening.fit(x, shrinkage)
    covariance = np.cov(x.double().numpy().T, bias=True)
    ridge = shrinkage * np.trace(covariance) / 20 * np.eye(20)
    values, vectors = np.linalg.eigh(covariance + ridge)
    expected = vectors @ np.diag(values**-0.5) @ vectors.T
    np.testing.assert_allclose(whitening.matrix.numpy(), expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(
        whitening(x).numpy(), (x.double().numpy() - x.mean(0).numpy()) @ expected, atol=2e-3
    )


def test_whitening_of_little_shrinkage_leaves_equal_variances() -> None:
    x = torch.randn(400, 12, generator=torch.Generator().manual_seed(2)) * torch.logspace(-2, 2, 12)
    white = Whitening.fit(x, 1e-9)(x)
    torch.testing.assert_close(white.T @ white / len(x), torch.eye(12), atol=2e-2, rtol=0)


def test_whitening_of_more_dimensions_than_it_computes_covariances_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = torch.randn(30, 50, generator=torch.Generator().manual_seed(3)) + 2.0
    other = torch.randn(7, 50, generator=torch.Generator().manual_seed(4))
    expected = Whitening.fit(x, 0.3)(other)
    monkeypatch.setattr(features_module, "_DENSE", 40)
    torch.testing.assert_close(Whitening.fit(x, 0.3)(other), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("x", [torch.full((5, 3), 0.1), torch.ones(1, 3)])
def test_whitening_of_features_that_do_not_vary_is_finite(x: torch.Tensor) -> None:
    assert Whitening.fit(x, 0.3)(x).abs().max() <= 1.0
    with pytest.raises(ValueError, match="no features to fit"):
        Whitening.fit(x[:0], 0.3)
    with pytest.raises(ValueError, match="must be finite, got NaN or inf"):
        Whitening.fit(x / 0.0, 0.3)
