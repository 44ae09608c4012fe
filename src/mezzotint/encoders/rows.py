"""Encoders of samples that are one row of numbers: the values of a table, or a text's n-grams.

`NGrams` is the encoder of fastText (Joulin et al. 2017, arXiv 1607.01759): the mean of learned
vectors of a text's hashed n-grams, written as one linear layer on their fractions. Differs from it:
n-grams are of tokens, which are bytes by default, instead of words; the layer gets square roots of
the fractions, centered by a BatchNorm. Both are measured in `benchmarks/results/quality.md`.
"""

from torch import Tensor, nn

from mezzotint.encoders.encoder import Encoder
from mezzotint.modality.tokens import ngram_columns, ngram_fractions
from mezzotint.recipe.component import require_sizes
from mezzotint.types import Input

# Near the variance of the fractions of common n-grams: rare ones are not made as loud as these.
_EPS = 1e-3


class TableMLP(Encoder, kind="table_mlp"):
    """Encode rows of a table by a perceptron on standardized values: linears, BatchNorm and ReLU.

    Args:
        input: of rows `(features,)`.
        width: width of all layers, and number of features.
        layers: number of layers.
    """

    modalities = frozenset({"table"})

    def __init__(self, input: Input, *, width: int = 128, layers: int = 3) -> None:
        if width < 1 or layers < 1:
            raise ValueError(
                f"`width` and `layers` must be at least 1, got {width} and {layers}. Try 128 and 3."
            )
        super().__init__(input, dim=width)
        # No bias: the BatchNorm after each linear would cancel it.
        inputs = [input.shape[0], *[width] * (layers - 1)]
        self.layers = nn.Sequential(
            *(
                nn.Sequential(nn.Linear(n, width, bias=False), nn.BatchNorm1d(width), nn.ReLU())
                for n in inputs
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """`[B, F]` → `[B, width]`."""
        return self.layers(x)  # type: ignore[no-any-return]


class NGrams(Encoder, kind="ngrams"):
    """Encode texts by the mean of learned vectors of their n-grams; padding does not count.

    Args:
        input: of token ids `(L,)`.
        width: number of features.
        longest: tokens of the longest n-grams; shorter ones have vectors too.
        buckets: number of vectors of each length, which n-grams are hashed to. Single tokens have a
            vector each where the vocabulary is not larger.
    """

    modalities = frozenset({"tokens"})

    def __init__(
        self, input: Input, *, width: int = 2048, longest: int = 3, buckets: int = 1024
    ) -> None:
        require_sizes("encoder", width=width, longest=longest, buckets=buckets)
        super().__init__(input, dim=width)
        self.longest, self.buckets = longest, buckets
        columns = sum(ngram_columns(input.vocabulary, longest, buckets))
        self.norm = nn.BatchNorm1d(columns, eps=_EPS, affine=False)
        # About the variance of a fraction's root: features have a fit scale before training too.
        self.norm.get_buffer("running_var").fill_(_EPS)
        self.vectors = nn.Linear(columns, width, bias=False)
        # Features of inputs of unit variance have unit variance, and random vectors keep distances.
        nn.init.normal_(self.vectors.weight, std=columns**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """int64 `[B, L]` → `[B, width]`."""
        fractions = ngram_fractions(x, self.input.vocabulary, self.longest, self.buckets)
        return self.vectors(self.norm(fractions))  # type: ignore[no-any-return]
