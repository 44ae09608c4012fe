"""The other networks that a run trained: the momentum copy, and either with its projector on it.

A run's `encoder/` holds the trained backbone. Its newest checkpoint holds the whole method, from which the target
network (BYOL, MoCo) and the projections can be evaluated: which branch and which layer is best differs by method, and a
fair comparison says which it took.
"""

from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from mezzotint.encoders.encoder import Encoder
from mezzotint.methods.method import COPIES, Method
from mezzotint.train.recipe import Recipe
from mezzotint.train.repeat import trained_method

Branch = Literal["online", "target"]
Part = Literal["backbone", "projector"]


class Projected(Encoder):
    """A backbone and the projector on it, as one encoder.

    Args:
        backbone: the encoder.
        projector: what stands on it.
    """

    def __init__(self, backbone: Encoder, projector: nn.Module) -> None:
        widths = [m.out_features for m in projector.modules() if isinstance(m, nn.Linear)]
        super().__init__(backbone.input, widths[-1] if widths else backbone.dim)
        self.backbone, self.projector = backbone, projector

    def forward(self, x: Tensor) -> Tensor:
        """`[B, *input.shape]` → `[B, dim]`."""
        out: Tensor = self.projector(self.backbone(x))
        return out


def branch_of(method: Method, branch: Branch = "online", part: Part = "backbone") -> Encoder:
    """A network of a method.

    Args:
        method: with the weights that are wanted.
        branch: the trained one, or its momentum copy.
        part: the backbone alone, or with the projector.

    Raises:
        ValueError: when the method has no such branch or no projector.
    """
    own: nn.Module = getattr(method, "base", method)
    prefix = ""
    if branch == "target":
        known = [name for name in COPIES if isinstance(getattr(own, f"{name}_encoder", None), Encoder)]
        if not known:
            raise ValueError(
                f"got branch=target, and {type(own).__name__} keeps no momentum copy; allowed is online: leave it out"
            )
        prefix = f"{known[0]}_"
    backbone: Encoder = getattr(own, f"{prefix}encoder")
    if part == "backbone":
        return backbone
    projector = getattr(own, f"{prefix}projector", None)
    if not isinstance(projector, nn.Module):
        raise ValueError(f"got part=projector, and {type(own).__name__} has none; allowed is backbone: leave it out")
    return Projected(backbone, projector)


def load_branch(folder: Path, recipe: Recipe, branch: Branch, part: Part) -> Encoder:
    """A network of a run, in eval mode, from its newest checkpoint; see `branch_of`."""
    return branch_of(trained_method(recipe, folder).method, branch, part).eval()
