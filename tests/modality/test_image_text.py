"""Images with text: one sequence of patches and tokens, and a picture with its text."""

import pytest
import torch

from mezzotint.data.image_text import input_with_text
from mezzotint.encoders.domain_agnostic import DomainAgnostic
from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.vit import ViT
from mezzotint.methods.emix import EMix
from mezzotint.methods.mae import MAE
from mezzotint.modality.image import image_statistics
from mezzotint.modality.image_text import pack, unpack
from mezzotint.modality.modality import modality_of
from mezzotint.modality.tokens import ngram_fractions
from mezzotint.types import Input

INPUT = input_with_text(Input((3, 8, 12), (0.5,) * 3, (0.25,) * 3), 5, 30)


def samples(length: int = 5) -> torch.Tensor:
    tokens = torch.randint(2, 32, (2, 5), generator=torch.Generator().manual_seed(0))
    tokens[:, length:] = 0
    images = torch.randint(
        0, 256, (2, 3, 8, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    return INPUT.normalize(pack(images, tokens))


@pytest.mark.parametrize("kind", [ViT, DomainAgnostic])
def test_a_sequence_of_patches_then_tokens(kind: type[Encoder]) -> None:
    encoder = kind(INPUT, width=12, depth=1, heads=2, patch=4)  # type: ignore[call-arg]
    assert isinstance(encoder, ViT) and encoder.patches.count == 6 + 5
    x = samples()
    embedded, where = encoder.embed(x)
    assert embedded.shape == (2, 11, 12) and where[0, :, 0].tolist() == list(range(11))
    image = x[:, :3].unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).reshape(2, 6, 48)
    patches = encoder.patches
    assert torch.allclose(embedded[:, :6], patches.image.project(image), atol=1e-6)  # type: ignore[union-attr, operator]
    assert torch.equal(embedded[:, 6:], patches.text.table(x[:, 3, 0, :5].long()))  # type: ignore[union-attr, operator]


def test_padding_is_no_patch() -> None:
    encoder = ViT(INPUT, width=12, depth=2, heads=2, patch=4).eval()
    x = samples(3)
    valid = encoder.valid_mask(x)
    assert valid is not None and valid.tolist() == [[True] * 9 + [False] * 2] * 2
    with torch.no_grad():
        encoder.patches.text.table.weight[0] = 100.0  # type: ignore[union-attr, operator]
        changed = encoder(x)
        encoder.patches.text.table.weight[0] = 0.0  # type: ignore[union-attr, operator]
        assert torch.allclose(encoder(x), changed, atol=1e-6)


def test_what_a_patch_holds() -> None:
    encoder = ViT(INPUT, width=12, depth=1, heads=2, patch=4)
    vectors = encoder.patches.vectors(encoder.patches.split(samples())[0])
    assert vectors.shape == (2, 11, 48 + 32)
    assert (vectors[:, :6, 48:] == 0).all() and (vectors[:, 6:, :48] == 0).all()
    assert torch.equal(vectors[:, 6:, 48:].argmax(-1), samples()[:, 3, 0, :5].long())


def test_patches_that_do_not_fill_the_image() -> None:
    with pytest.raises(
        ValueError, match=r"`patch` must divide the sizes \(8, 12\) .* got \(5, 5\)"
    ):
        ViT(INPUT, width=12, depth=1, heads=2, patch=5)


def test_methods_that_need_numbers_refuse() -> None:
    encoder = ViT(INPUT, width=12, depth=1, heads=2, patch=4)
    with pytest.raises(ValueError, match="must be embedding for tokens"):
        EMix(encoder, level="input")
    with pytest.raises(ValueError, match="cannot predict image_text, since tokens have no values"):
        MAE(encoder)


def test_pack_and_unpack_are_inverses() -> None:
    tokens = torch.randint(0, 32, (2, 5))
    images = torch.randint(0, 256, (2, 3, 4, 6), dtype=torch.uint8)
    colors, found = unpack(pack(images, tokens), 5)
    assert torch.equal(colors, images / 255.0) and torch.equal(found, tokens)


def test_raw_features_are_pixels_and_fractions_of_tokens() -> None:
    x = samples(3)
    features = modality_of(INPUT).raw_features(x, INPUT)
    assert torch.equal(features[:, : 3 * 8 * 12], x[:, :3].flatten(1))
    for row in range(2):
        counts = torch.bincount(x[row, 3, 0, :3].long(), minlength=32)
        assert torch.allclose(features[row, 3 * 8 * 12 :], counts / 3)


def test_the_picture_has_its_text_to_the_right() -> None:
    drawing = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    drawing[:, 0] = 255
    tokens = torch.tensor([[ord("W") + 2, ord("W") + 2, 0]])
    input = input_with_text(Input((3, 8, 8), (0.0,) * 3, (1.0,) * 3), 3, 256)
    picture = modality_of(input).picture(pack(drawing, tokens)[0], input)
    assert picture.shape == (3, 96, 96 + 192)
    assert (picture[0, :, :96] == 255).all() and (picture[1:, :, :96] == 0).all()
    letters = Input((3,), (), (), "tokens", 258)
    assert torch.equal(picture[:, :, 96:], modality_of(letters).picture(tokens[0], letters))
    others = input_with_text(Input((3, 8, 8), (0.0,) * 3, (1.0,) * 3), 3, 30_000)
    assert torch.equal(modality_of(others).picture(pack(drawing, tokens)[0], others), drawing[0])


def test_handmade_features_are_those_of_the_image_and_of_the_text() -> None:
    x = samples(length=3)
    found = modality_of(INPUT).handmade_features(x, INPUT)
    image, tokens = unpack(x, 5)
    expected = torch.cat([image_statistics(image), ngram_fractions(tokens, 32)], dim=1)
    assert found is not None and torch.equal(found, expected)
