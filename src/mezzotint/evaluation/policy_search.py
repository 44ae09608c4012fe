"""Search for augmentation policies by density matching (Fast AutoAugment, Lim et al. 2019).

A classifier learns from plain images; a sub-policy is good if the classifier still recognizes other
images after it. Candidates are drawn at random and the best are kept: no child model is trained,
which makes the search fast (arXiv 1905.00397). Differs from the paper: the classifier is a linear
one on a frozen encoder, which needs no labels in pretraining; candidates come from a seeded random
search instead of a tree-structured one; one split of the task's training samples replaces five. The
task's test samples are never read.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from mezzotint.augment.image.auto_augment import (
    FAST_AUTO_AUGMENT,
    FastAutoAugment,
    SubPolicies,
    SubPolicyStep,
)
from mezzotint.data.source import Task
from mezzotint.encoders.encoder import Encoder
from mezzotint.evaluation.features import Reading, extract_readable, read_batches
from mezzotint.evaluation.linear import Scaling
from mezzotint.evaluation.logistic import fit
from mezzotint.evaluation.measurement import Measurement
from mezzotint.modality.modality import modality_of
from mezzotint.quant.hooks import evaluating
from mezzotint.seeding import Draws, key_of

_PENALTY = 1e-3
_BATCH_SIZE = 256


def search_policy(
    measurement: Measurement,
    *,
    task: str | None = None,
    trials: int = 200,
    keep: int = 25,
    num_ops: int = 2,
    samples: int = 1024,
    seed: int = 0,
) -> tuple[SubPolicies, list[float]]:
    """Find sub-policies after which a classifier still recognizes the images.

    Args:
        measurement: encoder of images and its data, with a classification task; neither is changed.
        task: name of the task; by default the first one.
        trials: number of candidate sub-policies.
        keep: number of the best to keep.
        num_ops: operations per sub-policy.
        samples: largest number of images to learn from, and of images to score.
        seed: seed of the split, the candidates and their draws.

    Returns:
        The sub-policies, the best first, and the cross-entropy of each in nats.

    Raises:
        ValueError: for samples that are not images of the encoder's shape, an unknown task, or a
            number that is too small.
    """
    encoder, read, tasks = measurement.encoder, measurement.samples, measurement.tasks
    matching = [t for t in tasks if t.kind == "classify" and task in (None, t.name)]
    if not modality_of(encoder.input).is_picture:
        raise ValueError(
            "The search needs an encoder of images, but this one takes "
            f"{modality_of(encoder.input).plural}. "
            "Choose a run that was pretrained on images."
        )
    if encoder.input.shape != read.input.shape:
        raise ValueError(
            f"The encoder takes images of shape {encoder.input.shape}, but the data has "
            f"{modality_of(read.input).plural} of shape {read.input.shape}. Choose images of that "
            "shape."
        )
    if not matching:
        names = ", ".join(t.name for t in tasks if t.kind == "classify")
        raise ValueError(
            f"`task` must be a classification task of the data ({names or 'there is none'}), got "
            f"{task!r}. Choose another task, or labeled data."
        )
    if not 1 <= keep <= trials or min(num_ops, samples) < 1:
        raise ValueError(
            "`num_ops` and `samples` must be 1 or more and `keep` 1 to `trials`, got "
            f"num_ops={num_ops}, samples={samples}, keep={keep} and trials={trials}. Try 25 of 200."
        )
    candidates = _candidates(trials, num_ops, seed)
    losses, images = _cross_entropies(measurement, matching[0], candidates, samples, seed)
    best = sorted(range(trials), key=losses.__getitem__)[:keep]
    origin = (
        f"the {keep} best of {trials} random candidates on {matching[0].name}, {images} images, "
        f"seed {seed}"
    )
    return SubPolicies("searched", tuple(candidates[i] for i in best), origin), [
        losses[i] for i in best
    ]


def _cross_entropies(
    measurement: Measurement,
    task: Task,
    candidates: Sequence[tuple[SubPolicyStep, ...]],
    samples: int,
    seed: int,
) -> tuple[list[float], int]:
    """Return the cross-entropy of each candidate in nats, and the number of training images."""
    encoder, source = measurement.encoder, measurement.samples
    labels = torch.as_tensor(task.labels)
    order = torch.as_tensor(task.train)
    order = order[labels[order] >= 0]
    order = order[Draws(order, key_of(seed, "policy_search.split")).bits("order").argsort()]
    half = min(samples, len(order) // 2)
    if half < 1:
        raise ValueError(
            f"The search needs two labeled training images or more, got {len(order)}. Choose "
            "other data."
        )
    learned = extract_readable(encoder, source, measurement.reading, indices=order[:half])
    scaling = Scaling.of(learned.x)
    head = fit(scaling(learned.x), labels[learned.indices], len(task.classes), _PENALTY)
    [(score, stored, _)] = read_batches(source, order[half : 2 * half], Reading(half))
    images = encoder.input.as_float(stored)
    losses = []
    for trial, steps in enumerate(candidates):
        policy = FastAutoAugment()
        policy.tabulate(SubPolicies("candidate", (steps,)), FAST_AUTO_AUGMENT)
        changed = policy(images, Draws(score, key_of(seed, trial, "policy_search.draws")))
        logits = scaling(_features(encoder, changed)) @ head.weight.T + head.bias
        losses.append(float(cross_entropy(logits, labels[score])))
    return losses, half


def _candidates(trials: int, num_ops: int, seed: int) -> list[tuple[SubPolicyStep, ...]]:
    """Draw operations, probabilities and levels uniformly; identity is left out."""
    names = [name for name in FAST_AUTO_AUGMENT if name != "identity"]
    draws = Draws(torch.arange(trials), key_of(seed, "policy_search.candidates"))
    which = draws.integers("operation", num_ops, high=len(names)).tolist()
    p, level = (draws.uniform(name, num_ops).tolist() for name in ("probability", "level"))
    return [
        tuple(
            SubPolicyStep(names[which[t][s]], round(p[t][s], 4), round(level[t][s], 4))
            for s in range(num_ops)
        )
        for t in range(trials)
    ]


@torch.inference_mode()
def _features(encoder: Encoder, x: Tensor) -> Tensor:
    """Return the features of images in [0, 1]."""
    with evaluating(encoder):
        parts = [encoder(encoder.input.normalize(part)) for part in torch.split(x, _BATCH_SIZE)]
    return torch.cat(parts).float()
