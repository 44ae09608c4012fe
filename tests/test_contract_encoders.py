"""The contract of every encoder of the index; a new one fails until it has an example here."""

import copy
import pickle
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mezzotint import encoders
from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.saving import load_encoder, save_encoder
from mezzotint.modality.modality import modality_names, modality_of
from mezzotint.recipe.schema import construct, resolve
from mezzotint.recipe.signatures import index
from mezzotint.types import Input

DIM = 8
"""Features of the network in the ONNX example."""


def input_of(modality: str, *shape: int, vocabulary: int = 0, text: int = 0) -> Input:
    channels = 0 if vocabulary and not text else shape[0]
    return Input(shape, (0.5,) * channels, (0.25,) * channels, modality, vocabulary, text)


IMAGE, GRAY = input_of("image", 3, 16, 16), input_of("image", 1, 16, 16)
EVERY = [
    input_of("image", 3, 16, 16),
    input_of("image", 1, 16, 16),
    input_of("audio", 1, 16, 32),
    input_of("video", 3, 4, 16, 16),
    input_of("series", 3, 32),
    input_of("points", 3, 70),
    input_of("tokens", 12, vocabulary=30),
    input_of("table", 7),
    input_of("image_text", 4, 16, 16, vocabulary=30, text=5),
]
"""Inputs of every modality, for encoders that take any."""


@dataclass(frozen=True)
class Example:
    """How to build a small encoder of a kind.

    Attributes:
        keys: of the recipe's section `encoder`.
        inputs: that it takes.
        stateless: it has no weights here, so nothing is saved, trained or pickled.
    """

    keys: dict[str, Any] = field(default_factory=dict)
    inputs: tuple[Input, ...] = (IMAGE,)
    stateless: bool = False


RESNET = Example({"width": 4, "stem": "small"}, (IMAGE, GRAY, input_of("audio", 1, 16, 32)))
EXAMPLES: dict[str, Example] = {
    "audio_ntt": Example({"width": 4, "dim": 8}, (input_of("audio", 1, 16, 32),)),
    "dgcnn": Example({"width": 4, "neighbors": 5}, (input_of("points", 3, 70),)),
    "domain_agnostic": Example(
        {"width": 24, "depth": 2, "heads": 2, "patch": 2}, tuple(EVERY)
    ),
    "ngrams": Example({"width": 8}, (input_of("tokens", 12, vocabulary=30),)),
    "onnx": Example({}, (IMAGE,), stateless=True),
    "pointnet": Example({"width": 4, "transformers": "both"}, (input_of("points", 3, 70),)),
    "resnet8": RESNET,
    "resnet10": RESNET,
    "resnet18": RESNET,
    "resnet34": RESNET,
    "resnet50": RESNET,
    "resnet1d": Example({"width": 4}, (input_of("series", 3, 32), input_of("series", 1, 32))),
    "table_mlp": Example({"width": 8}, (input_of("table", 7),)),
    "timm": Example(
        {"name": "resnet10t"}, (input_of("image", 3, 64, 64), input_of("image", 1, 64, 64))
    ),
    "vit": Example(
        {"width": 24, "depth": 2, "heads": 2, "patch": 2, "groups": 4, "group_size": 5},
        tuple(EVERY),
    ),
}  # fmt: skip
CASES = [(kind, input) for kind, example in EXAMPLES.items() for input in example.inputs]
each = pytest.mark.parametrize(
    ("kind", "input"), CASES, ids=[f"{k}-{i.modality}-{i.shape[0]}" for k, i in CASES]
)
with_state = pytest.mark.parametrize(
    ("kind", "input"),
    [(k, i) for k, i in CASES if not EXAMPLES[k].stateless],
    ids=[f"{k}-{i.modality}-{i.shape[0]}" for k, i in CASES if not EXAMPLES[k].stateless],
)


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network from images to features, with any batch size."""
    path = tmp_path_factory.mktemp("onnx") / "network.onnx"
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, DIM, 4, stride=4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    batch = torch.export.Dim("batch", min=1)
    torch.onnx.export(
        network.eval(),
        (torch.zeros(2, *IMAGE.shape),),
        path,
        dynamo=True,
        dynamic_shapes=({0: batch},),
        verbose=False,
    )
    return path


@pytest.fixture
def build(request: pytest.FixtureRequest) -> Any:
    """A function that builds an example, with a seed."""

    def built(kind: str, input: Input, seed: int = 0) -> Encoder:
        keys = {"kind": kind, **EXAMPLES[kind].keys}
        if kind == "onnx":
            keys["path"] = str(request.getfixturevalue("onnx_file"))
        torch.manual_seed(seed)
        config = resolve(keys, "Encoder", "encoder")
        encoder: Encoder = construct(config, "Encoder", {"Encoder": (input,)})
        return encoder

    return built


def samples(input: Input, rows: int) -> Tensor:
    """Random normalized samples; texts with padding at their end."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, *input.shape, generator=generator)
    if not modality_of(input).has_tokens:
        return x
    length = input.text or input.shape[0]
    tokens = torch.randint(2, input.vocabulary, (rows, length), generator=generator)
    tokens[:, -2:] = 0
    if not input.text:
        return tokens
    x[:, 3] = 0.0
    x[:, 3].view(rows, -1)[:, :length] = tokens.float()
    return x


def test_every_encoder_of_the_index_has_an_example() -> None:
    assert set(EXAMPLES) == set(index().members("Encoder")), "add an example of the new encoder"
    assert {input.modality for input in EVERY} == {*modality_names()}


def test_the_package_lists_every_class_and_a_start_does_not_import_torch() -> None:
    entries = index().members("Encoder")
    listed = {*dir(encoders)}
    # Modules hide the factories `timm` and `onnx`.
    assert {entry.name for entry in entries.values()} - {"timm", "onnx"} <= listed
    assert all(getattr(encoders, name) is not None for name in listed)
    code = "import sys, mezzotint.encoders; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@each
def test_features_are_one_finite_float32_row_a_sample(build: Any, kind: str, input: Input) -> None:
    encoder, x = build(kind, input).eval(), samples(input, 3)
    assert encoder.input == input and encoder.config["kind"] == kind
    with torch.no_grad():
        features = encoder(x)
        assert features.shape == (3, encoder.dim) and features.dtype == torch.float32
        assert features.isfinite().all()
        assert torch.equal(encoder(x), features)  # eval mode draws nothing
        assert len(features.unique(dim=0)) == 3  # no sample's features are another's
        alone = encoder(x[:1])
    assert alone.shape == (1, encoder.dim)
    torch.testing.assert_close(alone, features[:1], atol=1e-4, rtol=1e-4)


@each
def test_no_rows_give_no_features(build: Any, kind: str, input: Input) -> None:
    encoder = build(kind, input).eval()
    with torch.no_grad():
        assert encoder(samples(input, 2)[:0]).shape == (0, encoder.dim)


@each
def test_samples_of_another_shape_are_refused(build: Any, kind: str, input: Input) -> None:
    encoder, x = build(kind, input).eval(), samples(input, 2)
    with pytest.raises(ValueError, match=r"^Samples must have the shape \[batch, .*got \["):
        encoder(x.unsqueeze(1))
    if not modality_of(input).has_tokens:
        with pytest.raises(ValueError, match=r"^Samples must have the shape \[batch, .*got \["):
            encoder(torch.cat([x, x], dim=1))


@with_state
def test_an_input_of_another_modality_is_refused(build: Any, kind: str, input: Input) -> None:
    taken = {input.modality for input in EXAMPLES[kind].inputs}
    for other in EVERY:
        if other.modality not in taken:
            with pytest.raises(ValueError, match=r"^`\w+` takes .*, got .*\. Choose"):
                build(kind, other)


@with_state
def test_weights_are_a_function_of_the_seed(build: Any, kind: str, input: Input) -> None:
    first, same, other = (build(kind, input, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@with_state
def test_gradients_reach_all_parameters(build: Any, kind: str, input: Input) -> None:
    encoder = build(kind, input).train()
    weights = torch.linspace(0.5, 1.5, encoder.dim)
    (encoder(samples(input, 4)) * weights).square().sum().backward()
    without = [n for n, p in encoder.named_parameters() if p.requires_grad and p.grad is None]
    assert not without
    assert all(p.grad.isfinite().all() for p in encoder.parameters() if p.grad is not None)


@with_state
def test_saved_and_loaded_it_is_the_same(
    build: Any, kind: str, input: Input, tmp_path: Path
) -> None:
    encoder, x = build(kind, input), samples(input, 3)
    encoder.train()
    with torch.no_grad():
        encoder(x)  # moves statistics, which are part of the state
    encoder.eval()
    loaded = load_encoder(save_encoder(encoder, tmp_path))
    assert not loaded.training and loaded.input == input and loaded.config == encoder.config
    assert loaded.state_dict().keys() == encoder.state_dict().keys()
    with torch.no_grad():
        assert torch.equal(loaded(x), encoder(x))


@with_state
def test_copied_and_pickled_it_is_the_same(build: Any, kind: str, input: Input) -> None:
    encoder, x = build(kind, input).eval(), samples(input, 2)
    with torch.no_grad():
        features = encoder(x)
        for other in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
            assert torch.equal(other(x), features) and other.config == encoder.config
            for parameter in other.parameters():
                parameter.zero_()
        assert torch.equal(encoder(x), features)  # copies share no weights


@with_state
def test_exported_it_is_the_same_for_any_batch(build: Any, kind: str, input: Input) -> None:
    encoder = build(kind, input).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(
        encoder, (samples(input, 2),), dynamic_shapes=({0: batch},), strict=False
    )
    x = samples(input, 3)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(x), encoder(x), atol=1e-4, rtol=1e-4)


WITHOUT_MAP = {"dgcnn", "ngrams", "onnx", "pointnet", "table_mlp"}
WITH_MAP = {"audio", "image", "series"}
"""Modalities whose samples have a grid of one or two axes."""


@each
def test_features_with_their_map_are_the_features(build: Any, kind: str, input: Input) -> None:
    encoder, x = build(kind, input).eval(), samples(input, 2)
    if kind in WITHOUT_MAP or input.modality not in WITH_MAP:
        with pytest.raises(ValueError, match="has no feature map or patch tokens of a grid"):
            encoder.features_and_map(x)
        return
    with torch.no_grad():
        features, found = encoder.features_and_map(x)
        assert torch.equal(features, encoder(x))
    assert found.ndim == 4 and len(found) == 2 and found.shape[2:].numel() > 1
    assert not any(module._forward_hooks for module in encoder.modules())
