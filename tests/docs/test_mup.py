"""The examples of the pages of muP run, and what they build is in muP."""

import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mezzotint.optim import mup
from mezzotint.optim.mup.coord_check import get_coord_data, slopes
from mezzotint.optim.mup.shapes import growth
from tests import ROOT
from tests.optim.mup.models import batch

PAGES = {name: ROOT / "docs" / f"{name}.md" for name in ("mup", "mup-examples")}


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)


def run(page: str, title: str) -> dict[str, Any]:
    """Run the Python example below a heading, and return its names."""
    text = PAGES[page].read_text(encoding="utf-8")
    section = re.split(r"^## ", text, flags=re.M)
    (own,) = (part for part in section if part.startswith(title))
    (code,) = re.findall(r"```python\n(.*?)```", own, re.S)
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(code, f"{page}.md: {title}", "exec"), names)
    return names


def lr_of(names: dict[str, Any]) -> dict[str, float]:
    """Learning rate of each parameter of an example, over the largest."""
    model, optimizer = names["model"], names["optimizer"]
    of = {id(p): name for name, p in model.named_parameters()}
    rates = {of[id(p)]: g["lr"] for g in optimizer.param_groups for p in g["params"]}
    return {name: rate / max(rates.values()) for name, rate in rates.items()}


def worst(made: Callable[[int], nn.Module], base: int, data: Any, **settings: Any) -> Any:
    """Largest slope of the models of an example over three widths, and where it is."""
    widths = {base * m: lambda m=m: made(base * m) for m in (1, 2, 4)}
    found = slopes(get_coord_data(widths, [data], nsteps=3, nseeds=2, **settings))
    return max(((slope, key) for key, slope in found.items()), key=lambda one: abs(one[0]))


def test_every_example_is_tested() -> None:
    titles = [
        title
        for page in PAGES.values()
        for title in re.findall(r"^## (.*)$(?:(?!^## )[\s\S])*?```python", page.read_text(), re.M)
    ]
    tested = re.findall(r'run\("[a-z-]+", "(.*?)"\)', Path(__file__).read_text())
    tested.append("Why it works")  # the lines next to its formula, in test_method_pages.py
    assert all(any(title.startswith(one) for one in tested) for title in titles), titles


def test_an_mlp() -> None:
    names = run("mup", "For a module of your own")
    assert Path("base.json").is_file()
    rates = lr_of(names)
    assert rates["0.weight"] == rates["4.weight"] == 1.0 and rates["2.weight"] == 64 / 1024
    names["optimizer"].step()
    names["schedule"].step()


def test_a_transformer() -> None:
    names = run("mup-examples", "A transformer of your own")
    roles = {name: one.role for name, one in growth(names["model"]).items()}
    assert roles["table.weight"] == "input" and roles["blocks.0.qkv.weight"] == "hidden"
    assert lr_of(names)["blocks.1.mlp.0.weight"] == 0.25
    assert not names["model"].blocks[1].qkv.weight[:128].any()
    settings: dict[str, Any] = {"optimizer": "adamw", "lr": 4e-3, "flatten_output": True}
    found = worst(names["language_in_mup"], 32, batch("transformer"), **settings)
    assert abs(found[0]) < 0.15, found


def test_a_residual_network() -> None:
    names = run("mup-examples", "A residual network")
    roles = {name: one.role for name, one in growth(names["model"]).items()}
    assert roles["encoder.conv1.weight"] == "input" and roles["head.weight"] == "output"
    assert names["model"].head.width_mult() == 4.0
    assert lr_of(names)["encoder.layer2.0.conv1.weight"] == 0.25  # m for stem, norms and head
    images = torch.randn(16, 3, 32, 32), torch.randint(10, (16,))
    found = worst(names["classifier_in_mup"], 16, images, optimizer="sgd", lr=0.1)
    assert abs(found[0]) < 0.15, found
    with pytest.raises(ValueError, match="Base shapes must be those of the same architecture"):
        mup.set_base_shapes(nn.Linear(3, 4), "resnet8.json")


def test_a_u_net() -> None:
    names = run("mup-examples", "A U-Net")
    roles = {name: one.role for name, one in growth(names["model"]).items()}
    assert roles["up.weight"] == "hidden" and roles["head.weight"] == "output"
    assert names["model"].head.input_multiplier == 0.25
    assert lr_of(names)["up.weight"] == 0.25 and lr_of(names)["head.weight"] == 1.0
    images = torch.randn(4, 3, 16, 16), torch.randn(4, 3, 16, 16)
    settings: dict[str, Any] = {"optimizer": "adamw", "lr": 5e-3, "lossfn": "mse"}
    found = worst(names["unet_in_mup"], 16, images, **settings)
    assert abs(found[0]) < 0.15, found


def test_a_hugging_face_transformer() -> None:
    pytest.importorskip("transformers", reason="the extra `transformers` is not installed")
    names = run("mup-examples", "A Hugging Face transformer")
    rates = lr_of(names)
    assert rates["bert.encoder.layer.0.attention.self.query.weight"] == 0.25
    assert rates["bert.embeddings.word_embeddings.weight"] == rates["classifier.weight"] == 1.0
    assert abs(names["largest"]) < 0.15
    query = names["model"].bert.encoder.layer[0].attention.self.query.weight
    assert float(query.detach().std()) == pytest.approx(0.1, rel=0.05)


def test_fine_tuning() -> None:
    names = run("mup-examples", "Fine-tuning")
    model, pretrained = names["model"], names["pretrained"]
    x = torch.randn(4, 20)
    assert torch.equal(model[:2](x), pretrained[:2](x)) and model(x).shape == (4, 3)
    assert model[2].width_mult() == 4.0


@pytest.fixture
def one_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for key, value in {"RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1",
                       "MASTER_PORT": port}.items():  # fmt: skip
        monkeypatch.setenv(key, str(value))
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore:.*")
def test_several_processes(one_process: None) -> None:
    names = run("mup-examples", "Several processes")
    model, parallel = names["model"], names["parallel"]
    rates = {n: g["lr"] for g in names["optimizer"].param_groups for n in g["param_names"]}
    alone = {n: g["lr"] for g in mup.MuAdamW(model, lr=1e-3).param_groups for n in g["param_names"]}
    assert rates == {f"module.{name}": rate for name, rate in alone.items()}
    torch.autograd.backward(parallel(torch.randn(4, 20)).square().mean())
    before = model[0].weight.detach().clone()
    names["optimizer"].step()
    assert not torch.equal(before, model[0].weight)
