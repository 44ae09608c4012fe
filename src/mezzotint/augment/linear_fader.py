"""Fading in and out: a straight line over time, added to the logarithm of power.

`RandomLinearFader` of BYOL-A's second version (Niizumi et al. 2022, arXiv 2204.07402, section III), batched.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mezzotint.augment.transform import Params, Transform
from mezzotint.seeding import Draws


class LinearFader(Transform):
    """Add a line that runs from one random gain at the first frame to another at the last, to all mels alike.

    Args:
        gain: both ends are uniform on [-gain, gain), in the units of the values: deviations where they are normalised,
            as BYOL-A's are with its 1.0, and nepers of power where they are logarithms.
    """

    def __init__(self, *, gain: float = 1.0) -> None:
        if not gain > 0.0:
            raise ValueError(f"got gain={gain}; allowed is more than 0: BYOL-A has 1.0")
        self.gain = gain

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """`head` and `tail`, `[B]`."""
        return {end: draws.uniform(end, low=-self.gain, high=self.gain) for end in ("head", "tail")}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """Fade."""
        head, tail = (params[end].to(x.dtype).view(-1, 1, 1, 1) for end in ("head", "tail"))
        share = torch.linspace(0.0, 1.0, x.shape[3], dtype=x.dtype, device=x.device)
        return x + torch.lerp(head, tail, share)
