"""AudioNTT2020: the encoder of BYOL for Audio (Niizumi et al. 2021, arXiv 2103.06695).

After Koizumi et al. (2020). Three blocks of convolution and pooling turn `[1, F, T]` into T / 8
frames of 64 · F / 8 numbers. Two layers map each frame to `dim` features. The feature of a clip is
the sum of their maximum and their mean over time, so that clips may have any length. 5.3 M
parameters at the published 2,048 features and 64 mels.

Differs from the published code: the channels of the convolutions, 64 there, are a parameter, and
the statistics of the input can be part of the model (`running_norm`).
"""

import torch
from torch import Tensor, nn

from mezzotint.encoders.encoder import Encoder
from mezzotint.types import Input

_BLOCKS = 3


class AudioNTT(Encoder, kind="audio_ntt"):
    """Encode log-mel spectrograms by the small convolutional network of BYOL-A.

    Args:
        input: of spectrograms `(1, mels, frames)`, with at least 8 mels and 8 frames.
        dim: number of features.
        width: channels of the convolutions.
        dropout: probability of dropping a value between the two layers of a frame.
        running_norm: training samples over which a running mean and standard deviation are
            estimated, which normalize the input once more; they are frozen afterwards. 0 for none.
            For data whose statistics are unknown.
    """

    modalities = frozenset({"audio"})

    def __init__(
        self,
        input: Input,
        *,
        dim: int = 2048,
        width: int = 64,
        dropout: float = 0.3,
        running_norm: int = 0,
    ) -> None:
        super().__init__(input, dim)
        if min(input.shape[1:]) < 2**_BLOCKS:
            raise ValueError(
                f"Spectrograms must have at least 8 mels and 8 frames, got shape {input.shape}. "
                "Choose longer clips."
            )
        if dim < 1 or width < 1:
            raise ValueError(
                f"`dim` and `width` must be at least 1, got {dim} and {width}. Try 2048 and 64."
            )
        self.norm: nn.Module = RunningNorm(running_norm) if running_norm else nn.Identity()
        blocks: list[nn.Module] = []
        channels = input.shape[0]
        for _ in range(_BLOCKS):
            blocks += [
                nn.Conv2d(channels, width, 3, padding=1),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
            channels = width
        self.features = nn.Sequential(*blocks)
        self.fc = nn.Sequential(
            nn.Linear(width * (input.shape[1] // 2**_BLOCKS), dim),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(dim, dim),
            nn.ReLU(),
        )

    def frame_features(self, x: Tensor) -> Tensor:
        """`[B, 1, F, T]` → `[B, T / 8, dim]`."""
        x_BCFT = self.features(self.norm(x))
        return self.fc(x_BCFT.permute(0, 3, 2, 1).flatten(2))  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """`[B, 1, F, T]` → `[B, dim]`."""
        x_BTD = self.frame_features(x)
        return x_BTD.amax(dim=1) + x_BTD.mean(dim=1)


class RunningNorm(nn.Module):
    """Normalizes by a running mean and standard deviation, which are frozen after some samples.

    Both are exact over all values so far (Chan et al. 1979), so they depend neither on the size of
    the batches nor on their order. They are part of the model's state.

    Args:
        samples: training samples after which the statistics are frozen.
    """

    count: Tensor
    mean: Tensor
    square: Tensor

    def __init__(self, samples: int) -> None:
        super().__init__()
        if samples < 1:
            raise ValueError(
                f"`samples` must be at least 1, got {samples}. BYOL-A uses 10 epochs of both views."
            )
        self.samples = samples
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros((), dtype=torch.float64))
        self.register_buffer("square", torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """`[B, …]` → the same shape, normalized; unchanged before the first training batch."""
        if self.training:
            self._update(x.detach())
        known = self.count > 0
        std = self.square.clamp(min=torch.finfo(torch.float32).eps ** 2).sqrt()
        std = torch.where(known, std, 1.0)
        return (x - self.mean.to(x.dtype)) / std.to(x.dtype)

    def _update(self, x: Tensor) -> None:
        """Add a batch to the statistics, without a branch on a tensor: no sync, one graph."""
        variance, mean = torch.var_mean(x.double(), correction=0)
        # A batch has no weight once the statistics are frozen.
        count = torch.where(self.count < self.samples, float(len(x)), 0.0)
        total = (self.count + count).clamp(min=1.0)
        part, change = count / total, mean - self.mean
        self.square.copy_(
            (1.0 - part) * self.square + part * variance + part * (1.0 - part) * change.square()
        )
        self.mean.add_(part * change)
        self.count.add_(count)
