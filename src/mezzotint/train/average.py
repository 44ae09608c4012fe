"""A running average of a method's weights, which a run then keeps in place of its last weights.

Polyak averaging as fine-tuning uses it, with an exponential window of about `1 / (1 − decay)` steps. The window opens
as the run goes on: after step t (from 0) the decay is at most `(1 + t) / (10 + t)`, as TensorFlow's
`ExponentialMovingAverage` has it, so that the random start is forgotten in short runs too. Buffers (statistics of
BatchNorm, queues, counters) are those of the last step.
"""

import torch

from mezzotint.methods.method import Method, momentum_copy, momentum_update


class Average:
    """The average of the weights of a method.

    Args:
        method: that is trained; the average starts from its weights.
        decay: of the average, once the window is open.

    Attributes:
        method: a copy of the method, with the averaged weights.
    """

    def __init__(self, method: Method, decay: float) -> None:
        self.method, self.decay = momentum_copy(method), decay

    @torch.no_grad()
    def follow(self, method: Method, step: int) -> None:
        """Take in the weights of a method after its step (from 0)."""
        momentum_update(self.method, method, min(self.decay, (1 + step) / (10 + step)))
        for own, new in zip(self.method.buffers(), method.buffers(), strict=True):
            own.copy_(new)
