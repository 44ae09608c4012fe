"""Multipliers and groups survive whatever replaces parameters or wraps modules."""

import copy
import io
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from mezzotint.optim.mup import MuAdam, get_base_shapes, set_base_shapes
from tests.optim.mup.models import ARCHITECTURES, batch


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = set_base_shapes(
        ARCHITECTURES[name](32), ARCHITECTURES[name](8), delta=ARCHITECTURES[name](16)
    )
    return model.eval()


def factors(model: nn.Module) -> dict[str, float]:
    return {
        n.removeprefix("module."): g["lr"]
        for g in MuAdam(model, lr=1.0).param_groups
        for n in g["param_names"]
    }


def copied(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model)


def pickled(model: nn.Module) -> nn.Module:
    twin: nn.Module = pickle.loads(pickle.dumps(model))
    return twin


def saved(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    twin: nn.Module = torch.load(file, weights_only=False)
    return twin


def assigned(model: nn.Module) -> nn.Module:
    model.load_state_dict({k: v.clone() for k, v in model.state_dict().items()}, assign=True)
    return model


def averaged(model: nn.Module) -> nn.Module:
    average = torch.optim.swa_utils.AveragedModel(model)
    average.update_parameters(model)
    return average.eval()


def from_meta(model: nn.Module) -> nn.Module:
    state = {k: v.clone() for k, v in model.state_dict().items()}
    model.to("meta").to_empty(device="cpu").load_state_dict(state)
    return model


@pytest.mark.parametrize("name", list(ARCHITECTURES))
@pytest.mark.parametrize("through", [copied, pickled, saved, assigned, averaged, from_meta])
def test_outputs_and_groups_stay(name: str, through: Any) -> None:
    model = made(name)
    x, _ = batch(name)
    expected, groups, shapes = model(x), factors(model), get_base_shapes(model)
    twin = through(model)
    assert torch.equal(twin(x), expected)
    assert factors(twin) == groups
    assert get_base_shapes(twin) == shapes


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_functional_call_and_export(name: str) -> None:
    model = made(name)
    x, _ = batch(name)
    doubled = {key: 2.0 * p for key, p in model.named_parameters()}
    with torch.no_grad():
        out = functional_call(model, doubled, (x,))
        twin = copy.deepcopy(model)
        for p in twin.parameters():
            p.mul_(2.0)
        assert torch.equal(out, twin(x))
        for strict in (True, False):
            program = torch.export.export(model, (x,), strict=strict)
            torch.testing.assert_close(program.module()(x), model(x))


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_compile_without_a_break_of_the_graph(name: str) -> None:
    model = made(name)
    x, _ = batch(name)
    compiled: Any = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), model(x))
    assert factors(compiled).keys() == {f"_orig_mod.{key}" for key in factors(model)}
    assert set(factors(compiled).values()) == set(factors(model).values())


@pytest.fixture
def process_group() -> Iterator[None]:
    store = torch.distributed.TCPStore("127.0.0.1", 0, 1, is_master=True)  # type: ignore[attr-defined]
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def losses(model: nn.Module, optimizer: torch.optim.Optimizer, name: str) -> list[float]:
    x, y = batch(name)
    found = []
    for _ in range(3):
        loss: Tensor = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        found.append(loss.item())
    return found


@pytest.mark.filterwarnings("ignore:.*")
@pytest.mark.parametrize("name", ["mlp", "transformer"])
def test_fully_shard_and_data_parallel_train_alike(name: str, process_group: None) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    plain = made(name)
    expected = losses(plain, MuAdam(plain, lr=0.01), name)
    sharded = made(name)
    fully_shard(sharded, mesh=init_device_mesh("cpu", (1,)))
    assert losses(sharded, MuAdam(sharded, lr=0.01), name) == pytest.approx(expected)
    assert factors(sharded) == factors(plain)
    parallel = nn.parallel.DistributedDataParallel(made(name))
    assert losses(parallel, MuAdam(parallel, lr=0.01), name) == pytest.approx(expected)
