"""A search for augmentation policies by matching densities (Fast AutoAugment, Lim et al. 2019, arXiv 1905.00397).

A classifier learns from plain images; a sub-policy is good when it still recognizes other images
after they were changed by it. Candidates are drawn at random and the best are kept: no child model
is trained, which is what makes the search fast. Differs from the paper: the classifier is a linear
one on a frozen encoder, so that an encoder trained without labels can be asked; candidates come
from a keyed random search instead of a tree-structured one; and one split of the task's training
samples is used instead of five. The task's test samples are never read.
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
_IN_A_PASS = 256


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
    """Find sub-policies after which a classifier still knows the images.

    Args:
        measurement: encoder of images and its data, with a classification task; neither is changed.
        task: name of the task; by default the first one.
        trials: sub-policies that are tried.
        keep: how many of the best are kept.
        num_ops: operations in a sub-policy.
        samples: images to learn from, and as many to score on, at most.
        seed: of the split, the candidates and their draws.

    Returns:
        The sub-policies, the best first, and the cross-entropy of each in nats.

    Raises:
        ValueError: when the samples are no images of the encoder's shape, there is no such task, or
            a number is too small.
    """
    encoder, read, tasks = measurement.encoder, measurement.samples, measurement.tasks
    found = [t for t in tasks if t.kind == "classify" and task in (None, t.name)]
    if not modality_of(encoder.input).is_picture or encoder.input.shape != read.input.shape:
        raise ValueError(
            f"got samples of modality {read.input.modality!r} and shape {read.input.shape} for an encoder of "
            f"{encoder.input.modality!r} and {encoder.input.shape}; allowed are images, of one shape: take other data"
        )
    if not found:
        names = ", ".join(t.name for t in tasks if t.kind == "classify") or "none in this data"
        raise ValueError(
            f"got the task {task!r}; allowed: {names}: name one, or take data with classes"
        )
    if not 1 <= keep <= trials or min(num_ops, samples) < 1:
        raise ValueError(
            f"got keep={keep} of trials={trials} with num_ops={num_ops} and samples={samples}; allowed is 1 or more, "
            "and keep at most trials: 25 of 200 is usual"
        )
    candidates = _candidates(trials, num_ops, seed)
    losses, images = _cross_entropies(measurement, found[0], candidates, samples, seed)
    best = sorted(range(trials), key=losses.__getitem__)[:keep]
    made = f"the {keep} best of {trials} random candidates on {found[0].name}, {images} images, seed {seed}"
    return SubPolicies("searched", tuple(candidates[i] for i in best), made), [
        losses[i] for i in best
    ]


def _cross_entropies(
    measurement: Measurement,
    task: Task,
    candidates: Sequence[tuple[SubPolicyStep, ...]],
    samples: int,
    seed: int,
) -> tuple[list[float], int]:
    """Of each candidate, in nats, for a classifier of plain images; and how many images it learned from."""
    encoder, source = measurement.encoder, measurement.samples
    labels = torch.as_tensor(task.labels)
    order = torch.as_tensor(task.train)
    order = order[labels[order] >= 0]
    order = order[Draws(order, key_of(seed, "policy_search.split")).bits("order").argsort()]
    half = min(samples, len(order) // 2)
    if half < 1:
        raise ValueError(
            f"got {len(order)} labeled images to learn from; allowed is 2 or more: take other data"
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
    """Operations, probabilities and levels, uniformly; identity is none of them."""
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
    """Features of images in [0, 1], in eval mode."""
    with evaluating(encoder):
        parts = [encoder(encoder.input.normalize(part)) for part in torch.split(x, _IN_A_PASS)]
    return torch.cat(parts).float()
