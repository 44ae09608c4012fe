"""MAE (He et al. 2022, arXiv 2111.06377): predict the values of masked patches.

The target is each masked patch, normalized by its own mean and standard deviation; the loss is the
squared difference. AudioMAE (Huang et al. 2022, arXiv 2207.06405) is the same on spectrograms, with
`decoder: {depth: 16, window: 4}` and a ratio of 0.8; VideoMAE (Tong et al. 2022, arXiv 2203.12602)
on tubes, with `decoder: {width: 384, depth: 4, heads: 6}` and `tube_mask`. Differs from the paper:
the encoder has no class token, and the decoder's head is applied to masked patches alone.
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
    """Predict the values of masked patches (masked autoencoder).

    Args:
        encoder: ViT, to be trained.
        mask: rule by which patches are masked.
        decoder: size of the network that predicts masked patches.
        normalize: standardize each target patch by its own mean and standard deviation; patches of
            a single value are never standardized.
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
                f"mae cannot predict {encoder.modality}, since tokens have no values. "
                "Choose method.kind=bridle."
            )
        super().__init__(encoder, mask, decoder, need_patches(encoder).patches.num_values)
        self.normalize = normalize and self.encoder.patches.num_values > 1

    def forward(self, views: Views) -> Step:
        keep, hidden = self.draw(views)
        values, where = self.encoder.patches.split(views.x[0])
        target = take(self.encoder.patches.vectors(values), hidden).float()
        if self.normalize:
            target = standardize(target)
        loss = (self.predict(views.x[0], keep, hidden, where).float() - target).square().mean()
        explained = 1.0 - loss.detach() / target.var().clamp_min(1e-12)
        return Step(loss, {"explained": explained})


@torch.no_grad()
def standardize(x: Tensor) -> Tensor:
    """Standardize each patch by its own mean and standard deviation, `[B, M, P]`."""
    variance, mean = torch.var_mean(x, dim=-1, keepdim=True)
    return (x - mean) / (variance + 1e-6).sqrt()
