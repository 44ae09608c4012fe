"""AudioNTT2020: the encoder of BYOL for Audio (Niizumi et al. 2021, arXiv 2103.06695), after Koizumi et al. (2020).

Three blocks of convolution and pooling turn `[1, F, T]` into T / 8 frames of 64 · F / 8 numbers;
two layers map each frame to `dim` features; the sum of their maximum and their mean over time is
the feature of the clip, so that clips of any length have one. 5.3 M parameters at the published
2,048 features and 64 mels.

Differs from the published code in that the channels of the convolutions, 64 there, are a parameter,
and that the statistics of the input may be part of the model (`running_norm`).
"""

import torch
from torch import Tensor, nn

from mezzotint.encoders.encoder import Encoder
from mezzotint.types import Input

_BLOCKS = 3


class AudioNTT(Encoder, kind="audio_ntt"):
    """A small convolutional encoder of log-mel spectrograms.

    Args:
        input: `(1, mels, frames)`; both at least 8.
        dim: number of features.
        width: channels of the convolutions.
        dropout: between the two layers of each frame.
        running_norm: normalize the input once more, by a mean and deviation that follow the first
            so many samples of training and stand still from then on; 0 for none. For a source whose
            statistics are not known.
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
        if len(input.shape) != 3 or min(input.shape[1:]) < 2**_BLOCKS:
            raise ValueError(
                f"got samples of shape {input.shape}; allowed is (channels, mels, frames) with 8 mels and frames or "
                "more: choose audio data, or longer clips"
            )
        if dim < 1 or width < 1:
            raise ValueError(
                f"got dim={dim} and width={width}; allowed are whole numbers from 1 on: 2048 and 64"
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
    """Normalize by one mean and one deviation, which follow what is seen in training until they are frozen.

    Both are those of all values seen so far, as one pass over them would give (Chan et al. 1979),
    so they depend neither on the size of the batches nor on their order. They are part of the
    model's state.

    Args:
        samples: how many samples to follow.
    """

    count: Tensor
    mean: Tensor
    square: Tensor

    def __init__(self, samples: int) -> None:
        super().__init__()
        if samples < 1:
            raise ValueError(
                f"got samples={samples}; allowed is 1 or more: BYOL-A follows 10 epochs of both views"
            )
        self.samples = samples
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros((), dtype=torch.float64))
        self.register_buffer("square", torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """`[B, …]` → the same, normalized; as it is before anything was seen."""
        if self.training:
            self._follow(x.detach())
        known = self.count > 0
        deviation = torch.where(
            known, self.square.clamp(min=torch.finfo(torch.float32).eps ** 2).sqrt(), 1.0
        )
        return (x - self.mean.to(x.dtype)) / deviation.to(x.dtype)

    def _follow(self, x: Tensor) -> None:
        """Take a batch in; tensors throughout, so that no device has to wait and the graph stays whole."""
        variance, mean = torch.var_mean(x.double(), correction=0)
        count = torch.where(
            self.count < self.samples, float(len(x)), 0.0
        )  # no weight once they are frozen
        total = (self.count + count).clamp(min=1.0)
        part, change = count / total, mean - self.mean
        self.square.copy_(
            (1.0 - part) * self.square + part * variance + part * (1.0 - part) * change.square()
        )
        self.mean.add_(part * change)
        self.count.add_(count)
