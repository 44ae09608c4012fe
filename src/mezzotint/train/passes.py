"""How many views pass through encoders: what runs have to be compared at, rather than epochs."""

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mezzotint.encoders.encoder import Encoder
from mezzotint.methods.method import Method


class Passes:
    """Counts the views that pass through encoders, with and without gradient.

    Args:
        method: whose encoders are watched: the trained one, and momentum copies of it.
        watch: false counts nothing, as where a compiled graph would be cut by the counting.
    """

    def __init__(self, method: Method, *, watch: bool = True) -> None:
        self.learning = self.watching = 0
        encoders = [m for m in method.modules() if isinstance(m, Encoder)] if watch else []
        self._encoders, self._hooks = encoders, list[RemovableHandle]()

    def start(self) -> None:
        """Count from here on: a run's features are measured before its first step, too."""
        self._hooks = [encoder.register_forward_hook(self._count) for encoder in self._encoders]

    def _count(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if output.requires_grad:
            self.learning += len(inputs[0])
        else:
            self.watching += len(inputs[0])

    def stop(self) -> tuple[int, int]:
        """Views with gradient, and without, since the start; what passes later is not counted."""
        while self._hooks:
            self._hooks.pop().remove()
        return self.learning, self.watching

    def facts(self, samples: int, views: int) -> dict[str, float]:
        """For a run's environment: views a sample, and passes of each sample; no passes where none were counted.

        Args:
            samples: that were counted, of this process.
            views: of each.
        """
        learning, watching = self.learning / samples, self.watching / samples
        counted = {"encoder_passes": learning, "encoder_passes_without_gradient": watching} if learning else {}
        return {"views": views, **counted}
