"""AudioNTT2020 and AudioNTT2022: the encoders of BYOL for Audio (Niizumi et al.).

The first (2021, arXiv 2103.06695), after Koizumi et al. (2020): three blocks of convolution and
pooling turn `[1, F, T]` into T / 8 frames of 64 · F / 8 numbers, and two layers map each frame to
`dim` features. The second (2022, arXiv 2204.07402) has two blocks, so T / 4 frames of 64 · F / 4
numbers, and joins these with the output of the two layers. The feature of a clip is the sum of
maximum and mean over time, so that clips may have any length. 5.3 M parameters at the published
2,048 features and 64 mels.

Differs from the published code: the channels of the convolutions, 64 there, are a parameter, and
the statistics of the input can be part of the model (`running_norm`).
"""

import torch
from torch import Tensor, nn

from mezzotint.encoders.encoder import Encoder
from mezzotint.recipe.component import require_sizes
from mezzotint.types import Input


class AudioNTT(Encoder, kind="audio_ntt"):
    """Encode log-mel spectrograms by the small convolutional network of BYOL-A.

    `dim: 3072, blocks: 2, hidden: 2048, join: true` is that of its second version.

    Args:
        input: of spectrograms `(1, mels, frames)`, with at least 2 to the `blocks` of each.
        dim: number of features.
        width: channels of the convolutions.
        blocks: number of convolutions; each halves mels and frames; 3, and 2 in the
            second version.
        hidden: width of the first layer of a frame; by default `dim`.
        join: put a frame's values after the convolutions in front of those after the two layers,
            as in the second version; `dim` counts both.
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
        blocks: int = 3,
        hidden: int | None = None,
        join: bool = False,
        dropout: float = 0.3,
        running_norm: int = 0,
    ) -> None:
        super().__init__(input, dim)
        hidden = dim if hidden is None else hidden
        require_sizes("encoder", dim=dim, width=width, blocks=blocks, hidden=hidden)
        if not 0.0 <= dropout < 1.0 or running_norm < 0:
            raise ValueError(
                "`encoder.dropout` must be 0 or more and below 1, and `running_norm` 0 or more, "
                f"got {dropout} and {running_norm}. Try 0.3 and 0."
            )
        if min(input.shape[1:]) < 2**blocks:
            raise ValueError(
                f"Spectrograms must have at least {2**blocks} mels and frames for `blocks: "
                f"{blocks}`, got shape {input.shape}. Choose longer clips, or fewer `blocks`."
            )
        frame = width * (input.shape[1] // 2**blocks)
        own = dim - frame if join else dim
        if own < 1:
            raise ValueError(
                f"With `join: true`, `encoder.dim` must be above the {frame} values of a frame, "
                f"got {dim}. Try {frame + 2048}."
            )
        self.join = join
        self.norm: nn.Module = RunningNorm(running_norm) if running_norm else nn.Identity()
        parts: list[nn.Module] = []
        channels = input.shape[0]
        for _ in range(blocks):
            parts += [
                nn.Conv2d(channels, width, 3, padding=1),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
            channels = width
        self.features = nn.Sequential(*parts)
        self.fc = nn.Sequential(
            nn.Linear(frame, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, own),
            nn.ReLU(),
        )

    def frame_features(self, x: Tensor) -> Tensor:
        """`[B, 1, F, T]` → `[B, T / 2 ** blocks, dim]`."""
        frames = self.features(self.norm(x)).permute(0, 3, 2, 1).flatten(2)
        out: Tensor = self.fc(frames)
        return torch.cat([frames, out], dim=2) if self.join else out

    def map_layer(self) -> tuple[nn.Module, bool]:
        return self.fc, False

    def as_map(self, values: Tensor, x: Tensor) -> Tensor:
        """`[B, T, D]` → `[B, D, 1, T]`."""
        return values.transpose(1, 2).unsqueeze(2)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, 1, F, T]` → `[B, dim]`."""
        x_BTD = self.frame_features(x)
        # The maximum keeps short events, which the mean over time would drown.
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
        # float64: after many samples a batch's part comes near the rounding of float32.
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros((), dtype=torch.float64))
        self.register_buffer("square", torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """`[B, …]` → the same shape, normalized; unchanged before the first training batch."""
        if self.training:
            self._update(x.detach())
        # Without a branch on a tensor, as in `_update`.
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
