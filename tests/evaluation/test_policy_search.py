from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from mezzotint.augment.image.auto_augment import (
    FAST_AUTO_AUGMENT,
    FastAutoAugment,
    SubPolicyStep,
    read_sub_policies,
    write_sub_policies,
)
from mezzotint.augment.image.rand_augment import check_names
from mezzotint.data.image.embedded import EmbeddedImages
from mezzotint.encoders.encoder import Encoder
from mezzotint.evaluation import policy_search
from mezzotint.evaluation.measurement import Measurement
from mezzotint.evaluation.policy_search import search_policy
from mezzotint.types import Input


class Pixels(Encoder):
    """The image itself."""

    def __init__(self, input: Input) -> None:
        super().__init__(input, dim=input.shape[0] * input.shape[1] * input.shape[2])

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


def test_what_destroys_the_image_is_not_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    digits = EmbeddedImages(name="digits")
    harmless, posterize = (
        (SubPolicyStep("identity", 1.0, 0.0),),
        (SubPolicyStep("posterize", 1.0, 0.9),),
    )
    invert, all_cut = (
        (SubPolicyStep("invert", 1.0, 0.0),),
        (SubPolicyStep("rotate", 1.0, 1.0), SubPolicyStep("brightness", 1.0, 0.0)),
    )

    def candidates(trials: int, num_ops: int, seed: int) -> Sequence[tuple[SubPolicyStep, ...]]:
        return [invert, harmless, all_cut, posterize]

    monkeypatch.setattr(policy_search, "_candidates", candidates)
    found, losses = search_policy(
        Measurement(Pixels(digits.input), digits), trials=4, keep=2, samples=200
    )
    assert set(found.steps) == {harmless, posterize} and losses == sorted(losses)


def test_the_same_seed_finds_the_same_and_the_file_works(tmp_path: object) -> None:
    digits = EmbeddedImages(name="digits")
    encoder = Pixels(digits.input).train()
    first, losses = search_policy(
        Measurement(encoder, digits), trials=4, keep=3, samples=100, seed=1
    )
    assert (
        first
        == search_policy(Measurement(encoder, digits), trials=4, keep=3, samples=100, seed=1)[0]
    )
    assert encoder.training and len(losses) == 3
    path = write_sub_policies(first, f"{tmp_path}/found.yaml")
    assert read_sub_policies(path).steps == first.steps
    assert FastAutoAugment(file=str(path)).which.shape == (3, 2)


def test_shipped_policy_of_the_emoji() -> None:
    shipped = FastAutoAugment().policies
    assert len(shipped.steps) == 25 and "emoji" in shipped.name
    check_names([step.name for steps in shipped.steps for step in steps], FAST_AUTO_AUGMENT)
    assert torch.is_tensor(FastAutoAugment().which)


@pytest.mark.parametrize("wrong", [{"task": "none"}, {"keep": 9, "trials": 4}, {"num_ops": 0}])
def test_bad_requests_are_refused(wrong: dict[str, object]) -> None:
    digits = EmbeddedImages(name="digits")
    with pytest.raises(ValueError, match=r" got |The encoder takes"):
        search_policy(Measurement(Pixels(digits.input), digits), **wrong)  # type: ignore[arg-type]
