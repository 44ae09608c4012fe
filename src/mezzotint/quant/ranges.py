"""Granularity, grid and observer of post-training quantization, as recipes choose them.

SSQL's configuration has `SYMMETRY`, `GRANULARITY` and `OBSERVER_METHOD` for weights and for
activations; `Quantization` has them for a policy, which says which layers are quantized.
"""

import copy
from typing import Literal

from torch import nn

from mezzotint.quant.convert import PolicyName, quantizer_slots
from mezzotint.quant.fake import ActivationQuantizer, Layout, Quantizer, WeightQuantizer
from mezzotint.quant.grid import Scheme
from mezzotint.quant.observers import Observer
from mezzotint.recipe.component import Component


class Ranges(Component):
    """Choose the ranges of weights, or of activations; what is left out stays as the policy has it.

    Args:
        scheme: grid: `ssql_symmetric` (the default of weights), `ssql_asymmetric` (the default of
            activations), `ssql_outward` with the extremes rounded outward, `symmetric` without the
            lowest code, `affine` with an exact zero.
        granularity: one range for each `tensor` (the default of activations), for each `channel`
            (that of weights), or for each `group` of weights.
        group: weights per group, with `granularity: group`.
        observer: how the range is chosen from the values.
    """

    def __init__(
        self,
        *,
        scheme: Scheme | None = None,
        granularity: Literal["tensor", "channel", "group"] | None = None,
        group: int = 0,
        observer: Observer | None = None,
    ) -> None:
        if (granularity == "group") != (group > 0):
            raise ValueError(
                "`group` must be 1 or more with `granularity: group`, and 0 otherwise, got "
                f"{group} with {granularity}. Try 64."
            )
        self.scheme, self.granularity, self.group = scheme, granularity, group
        self.observer = observer

    @property
    def words(self) -> str:
        """The choices, for a protocol: `tensor/mse`; empty where none was made."""
        kind = None if self.observer is None else _text(self.observer)
        size = f"{self.granularity}{self.group or ''}" if self.granularity else None
        return "/".join(part for part in (self.scheme, size, kind) if part)

    def quantizer(self, before: Quantizer, axis: int) -> Quantizer:
        """Make the quantizer that replaces another one, whose bits it keeps.

        Args:
            before: quantizer of the policy.
            axis: dimension of the channels.

        Raises:
            ValueError: for a quantizer without ranges, such as a learned one.
        """
        if type(before) not in (WeightQuantizer, ActivationQuantizer):
            raise ValueError(
                "`evaluate.policy` can choose ranges of uniform quantizers only, got "
                f"{type(before).__name__}. Leave weights and activations out."
            )
        layout = before.layout
        if self.granularity is not None:
            layout = Layout(self.granularity, axis, self.group)
        observer = copy.deepcopy(before.observer if self.observer is None else self.observer)
        made = type(before)(
            layout, self.scheme or before.scheme, observer, fixed_bits=before.fixed_bits
        )
        return made.to(before.bits.device)


class Quantization(Component):
    """Choose the layers that are quantized after training, and the ranges of both sides.

    Args:
        layers: layers to quantize; by default the encoder's own policy, or `ssql`.
        weights: scheme, granularity and observer of the weights.
        activations: those of the activations.
    """

    def __init__(
        self,
        *,
        layers: PolicyName | None = None,
        weights: Ranges = Ranges(),  # noqa: B008 - keeps no state
        activations: Ranges = Ranges(),  # noqa: B008
    ) -> None:
        if activations.granularity == "group":
            raise ValueError(
                "`activations.granularity` must be tensor or channel, got group. Groups are for "
                "weights."
            )
        self.layers, self.weights, self.activations = layers, weights, activations

    def apply_(self, network: nn.Module) -> None:
        """Replace the quantizers of a quantizable network; calibrate it afterwards."""
        for owner, slot, before in list(quantizer_slots(network)):
            weight = slot == "weight_quantizer"
            chosen = self.weights if weight else self.activations
            if not chosen.words:
                continue
            # A linear layer has its channels last, everything else second.
            features = -1 if isinstance(owner, nn.Linear) else 1
            setattr(owner, slot, chosen.quantizer(before, 0 if weight else features))


def _text(observer: Observer) -> str:
    """Write an observer with its settings: `percentile(alpha=0.001)`."""
    config = observer.config
    given = ",".join(f"{name}={value}" for name, value in config.items() if name != "kind")
    return f"{config['kind']}({given})" if given else str(config["kind"])
