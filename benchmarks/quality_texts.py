"""What hand-made features of texts have that an encoder may lack: length of n-grams, dimension.

    python benchmarks/quality_texts.py --sets fortunes,glosses,emails

Fractions of n-grams (`ngram_fractions`) are probed as `quality.py` probes them: by length of the
n-gram, and in fewer dimensions, by principal components and by random projections. The last rows
are linear maps with a closed form that are fitted to the training texts without labels: principal
components of unit variance, and the canonical directions of two parts of each text, cut at
random. They say what an encoder with one linear layer can learn.
"""

import argparse
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from quality import Bench, mean_scores
from torch import Tensor

from mezzotint.evaluation.features import Extraction, extract_readable
from mezzotint.evaluation.knn import KNN
from mezzotint.evaluation.linear import Linear
from mezzotint.evaluation.measurement import Measurement
from mezzotint.evaluation.suite import measure
from mezzotint.modality.tokens import PADDING, ngram_columns, ngram_fractions

_RIDGE = 1.0  # times the mean variance, added to each


def parts(x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Cut each text `[B, L]` between 0.35 and 0.65 of its length, and return both parts."""
    length = (x != PADDING).sum(dim=1)
    cut = (length * (0.35 + 0.3 * torch.rand(len(x), generator=generator))).long().clamp(min=1)
    index = torch.arange(x.shape[1])
    after = (cut.unsqueeze(1) + index).clamp(max=x.shape[1] - 1)
    rest = index >= (length - cut).unsqueeze(1)
    first = x.masked_fill(index >= cut.unsqueeze(1), PADDING)
    return first, x.gather(1, after).masked_fill(rest, PADDING)


def whitener(covariance: Tensor) -> Tensor:
    """Return the inverse root of a covariance `[F, F]` with a ridge."""
    values, vectors = torch.linalg.eigh(covariance)
    whitened: Tensor = (
        vectors * (values.clamp(min=0) + _RIDGE * values.mean()).rsqrt()
    ) @ vectors.T
    return whitened


def canonical(texts: Tensor, vocabulary: int, turns: int = 3) -> Tensor:
    """Return the canonical directions of the parts of texts, most correlated first: `[F, F]`."""
    generator = torch.Generator().manual_seed(0)
    within, between = torch.zeros(()), torch.zeros(())
    for _ in range(turns):
        a, b = (ngram_fractions(part, vocabulary) for part in parts(texts, generator))
        a, b = a - a.mean(dim=0), b - b.mean(dim=0)
        within = within + a.T @ a + b.T @ b
        between = between + a.T @ b + b.T @ a
    white = whitener(within)
    turned: Tensor = torch.linalg.eigh(white @ between @ white).eigenvectors
    return white @ turned.flip(1)


def features(bench: Bench, measurement: Measurement) -> Iterator[tuple[str, Tensor]]:
    """Yield features of all samples with their names."""
    vocabulary = bench.source.input.vocabulary
    x = measurement.samples.read_batch(torch.arange(len(measurement.samples)))
    texts = bench.source.read_batch(torch.arange(len(bench.source)))
    every, known = (ngram_fractions(part, vocabulary) for part in (x, texts))
    yield "n-grams up to 3", every
    for size, block in enumerate(every.split(ngram_columns(vocabulary), dim=1), 1):
        yield f"n-grams of {size}", block
    centered, known = every - known.mean(dim=0), known - known.mean(dim=0)
    values, directions = torch.linalg.eigh(known.T @ known / len(known))
    directions, values = directions.flip(1), values.flip(0).clamp(min=1e-8)
    for dim in (64, 256, 512):
        yield f"principal components, {dim}", centered @ directions[:, :dim]
    for dim in (64, 256):
        generator = torch.Generator().manual_seed(0)
        yield (
            f"random projection, {dim}",
            centered @ torch.randn(every.shape[1], dim, generator=generator),
        )
    yield (
        "principal components of unit variance, 512",
        centered @ (directions * values.rsqrt())[:, :512],
    )
    yield "canonical directions of two parts, 512", centered @ canonical(texts, vocabulary)[:, :512]
    encoder = bench.recipe(["encoder={kind: vit, width: 64, depth: 2, heads: 4}"], 0).encoder
    yield "untrained transformer, 64", extract_readable(encoder, measurement.samples).x


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", default="fortunes,glosses,emails")
    parser.add_argument("--cache", default="quality-data")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name in arguments.sets.split(","):
        bench = Bench(name, Path(arguments.cache))
        measurement = Measurement(bench.recipe([], 0).encoder, bench.source)
        every = torch.arange(len(measurement.samples))
        for label, x in features(bench, measurement):
            rows = measure(Extraction(x, every), measurement.tasks, (KNN(), Linear()), 1)
            found = mean_scores({"scores": bench.scores(rows)})
            print(f"| {name} | {label} | {found['knn']:.3f} | {found['linear']:.3f} |", flush=True)


if __name__ == "__main__":
    main()
