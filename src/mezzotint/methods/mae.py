"""MAE (He et al. 2022, arXiv 2111.06377): predict the values of hidden patches, and nothing but values.

The target is each hidden patch, normalized by its own mean and deviation; the loss their squared
difference. AudioMAE (Huang et al. 2022, arXiv 2207.06405) is the same on spectrograms, with
`decoder: {depth: 16, window: 4}` and a ratio of 0.8; VideoMAE (Tong et al. 2022, arXiv 2203.12602)
on tubes, with `decoder: {width: 384, depth: 4, heads: 6}` and `tube_mask`. Differs where the
encoder differs (no class token), and in that the decoder's head is applied to hidden patches alone.
"""

import torch
from torch import Tensor

from mezzotint.augment.masking import Mask, RandomMask
from mezzotint.encoders.decoder import Decoder
from mezzotint.encoders.encoder import Encoder
from mezzotint.methods.masked import Masked, need_patches
from mezzotint.modality.modality import modality_of
from mezzotint.modality.patches import take
from mezzotint.types import Step, Views


class MAE(Masked):
    """Masked autoencoder.

    Args:
        encoder: a ViT, to be trained.
        mask: which patches are hidden.
        decoder: size of the network that predicts them.
        normalize: take each patch less its mean, by its deviation, as the target; never for single
            values.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        mask: Mask = RandomMask(),  # noqa: B008 - keeps no state
        decoder: Decoder = Decoder(),  # noqa: B008
        normalize: bool = True,
    ) -> None:
        if modality_of(encoder.input).has_tokens:
            raise ValueError(
                f"got {encoder.modality}, and tokens have no values to predict; allowed is data without them: "
                "choose bridle"
            )
        super().__init__(encoder, mask, decoder, need_patches(encoder).patches.num_values)
        self.normalize = normalize and self.encoder.patches.num_values > 1

    def forward(self, views: Views) -> Step:
        """Mean squared error over the values of hidden patches."""
        keep, hidden = self.draw(views)
        values, where = self.encoder.patches.split(views.x[0])
        wanted = take(self.encoder.patches.vectors(values), hidden).float()
        if self.normalize:
            wanted = standardize(wanted)
        loss = (self.guess(views.x[0], keep, hidden, where).float() - wanted).square().mean()
        explained = 1.0 - loss.detach() / wanted.var().clamp_min(1e-12)
        return Step(loss, {"explained": explained})


@torch.no_grad()
def standardize(x: Tensor) -> Tensor:
    """Each patch less its mean, by its deviation: `[B, M, P]` → the same."""
    variance, mean = torch.var_mean(x, dim=-1, keepdim=True)
    return (x - mean) / (variance + 1e-6).sqrt()
