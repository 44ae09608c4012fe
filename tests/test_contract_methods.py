"""The contract of every method of the index; a new method is taken in without an edit here."""

import atexit
import contextlib
import functools
import importlib
import inspect
import math
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as td
from torch import Tensor, nn

from mezzotint import dist, quant
from mezzotint.codebooks import VQ, Codebook
from mezzotint.encoders.batch_norm import synchronize_batch_norm
from mezzotint.encoders.decoder import Decoder
from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.resnet import resnet18
from mezzotint.encoders.saving import save_encoder
from mezzotint.encoders.vit import ViT
from mezzotint.methods.method import Method
from mezzotint.methods.siamese import Siamese
from mezzotint.methods.simsiam import SimSiam
from mezzotint.methods.ssql import SSQL
from mezzotint.optim.muon import Muon
from mezzotint.recipe.signatures import index
from mezzotint.seeding import Draws, key_of
from mezzotint.train.guard import SentScalars, StepGuard
from mezzotint.train.sharding import gradient_norm
from mezzotint.train.state import RunState
from mezzotint.train.undo import ForwardState, Undo
from mezzotint.types import Input, Views
from tests.ranks import spawn

INPUT = Input((3, 8, 8), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
SMALL = 20
"""What sizes and counts become whose default is larger than 32."""


class TinyEncoder(Encoder):
    """Two convolutions; takes images of any size."""

    def __init__(self, *, batch_norm: bool = False) -> None:
        super().__init__(INPUT, dim=12)
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=not batch_norm),
            nn.BatchNorm2d(8) if batch_norm else nn.Identity(),
            nn.GELU(),
            nn.Conv2d(8, 12, 3, stride=2, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.body(x)).mean(dim=(2, 3))


def _discover() -> list[type[Method]]:
    entries = index().members("Method").values()
    return [getattr(importlib.import_module(entry.module), entry.name) for entry in entries]


METHODS = _discover()
each_method = pytest.mark.parametrize("cls", METHODS, ids=lambda c: c.__name__)


def build(cls: type[Method], seed: int = 0, *, batch_norm: bool = False) -> Method:
    """Build a method on a tiny encoder from its defaults, with large sizes made small."""
    torch.manual_seed(seed)
    encoder: Encoder = (
        ViT(INPUT, width=12, depth=1, heads=2, patch=2)
        if cls.needs_patches
        else TinyEncoder(batch_norm=batch_norm)
    )
    keywords: dict[str, Any] = {}
    for name, parameter in list(inspect.signature(cls).parameters.items())[1:]:
        default = parameter.default
        if type(default) is int and default > 32:
            keywords[name] = SMALL
        elif isinstance(default, Decoder):  # 25 million weights by default
            keywords[name] = Decoder(width=64, depth=2, heads=2)
        elif default is inspect.Parameter.empty:
            keywords[name] = _example(parameter.annotation, encoder)
    method = cls(encoder, **keywords).train()
    method.given = method.needs
    return method


def _example(annotation: Any, encoder: Encoder) -> Any:
    """Make a value for a keyword without a default."""
    if annotation is int:
        return 3
    if annotation is Codebook:
        return VQ(dim=6, num_codes=4)
    if annotation is Siamese:
        return SimSiam(encoder, dim=16, hidden_dim=24)
    if annotation == list[str]:
        return [teacher()]
    raise TypeError(f"A keyword without default has the type {annotation}. Give it a default.")


@functools.cache
def teacher() -> str:
    """Save a tiny encoder, once for each process."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_encoder(resnet18(INPUT, stem="small", width=2), folder)
    return str(folder)


def make_views(count: int, batch: int, step: int = 0) -> Views:
    """`count` views of the same samples; a third and further one are smaller, local crops."""
    generator = torch.Generator().manual_seed(100 + step)
    sizes = [8 if place < 2 else 6 for place in range(count)]
    x = tuple(torch.randn(batch, 3, size, size, generator=generator) for size in sizes)
    tags = tuple("global" if place < 2 else "local" for place in range(count))
    return Views(x, tags, Draws(torch.arange(batch), key_of(7, step)), torch.arange(batch) % 3)


def views_for(cls: type[Method], batch: int, step: int = 0) -> Views:
    return make_views(3 if cls.max_views is None else cls.min_views, batch, step)


def distinct(views: Views) -> Views:
    """Give samples different brightness, so that a head without BatchNorm tells them apart."""
    generator = torch.Generator().manual_seed(1)
    offset = 3.0 * torch.randn(len(views.x[0]), 3, 1, 1, generator=generator)
    return replace(views, x=tuple(x + offset for x in views.x))


def rows(views: Views, start: int, stop: int) -> Views:
    draws = Draws(views.draws.ids[start:stop], views.draws.key)
    labels = None if views.labels is None else views.labels[start:stop]
    return replace(views, x=tuple(x[start:stop] for x in views.x), draws=draws, labels=labels)


def gradients(method: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        own, value = found[name].double(), value.double()  # flags too
        difference = float((own - value).abs().max() / (1.0 + value.abs().max()))
        assert difference <= tolerance, f"{name} differs by {difference:.2g}"


def without_batch_norm(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            setattr(module, name, nn.Identity())
        else:
            without_batch_norm(child)


def train(method: nn.Module, views: Sequence[Views], total: int = 10) -> list[float]:
    """SGD steps as the loop takes them; the losses."""
    raw: Any = getattr(method, "module", method)
    optimizer = torch.optim.SGD(
        [p for p in raw.parameters() if p.requires_grad], lr=0.1, momentum=0.9
    )
    losses = []
    for step, batch in enumerate(views):
        optimizer.zero_grad()
        raw.before_step()
        loss = method(batch).loss
        loss.backward()
        losses.append(float(dist.mean(loss.detach())))
        optimizer.step()
        raw.after_step((step + 1) / total)
    return losses


def test_methods_are_discovered() -> None:
    assert {"SimCLR", "SimSiam", "BYOL", "MoCoV3", "LeJEPA"} <= {c.__name__ for c in METHODS}


@each_method
def test_loss_is_finite_and_its_gradient_reaches_what_is_trained(cls: type[Method]) -> None:
    method = build(cls)
    step = method(views_for(cls, 6))
    assert step.loss.shape == () and step.loss.dtype == torch.float32
    assert torch.isfinite(step.loss)
    step.loss.backward()
    if "encoder" in method.needs:  # an earlier phase has trained it
        assert all(p.grad is None for p in method.encoder.parameters())
        assert any(value.any() for value in gradients(method).values())
        return
    for name, parameter in method.encoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@each_method
def test_logs_are_detached_scalars_and_name_the_collapse_signals(cls: type[Method]) -> None:
    logs = build(cls)(views_for(cls, 6)).logs
    assert cls.reports_collapse == ({"alignment", "feature_std"} <= logs.keys())
    for name, value in logs.items():
        assert value.shape == () and not value.requires_grad and torch.isfinite(value), name


@each_method
def test_a_constant_encoder_is_reported_as_collapsed(cls: type[Method]) -> None:
    if not cls.reports_collapse:
        pytest.skip("it cannot collapse")
    method = build(cls)
    without_batch_norm(method)  # which would blow the last bits of equal rows up to variance 1
    for encoder in (module for module in method.modules() if isinstance(module, TinyEncoder)):
        for parameter in encoder.parameters():
            nn.init.constant_(parameter, 0.1)
    views = views_for(cls, 8)
    logs = method(replace(views, x=tuple(torch.ones_like(views.x[0]) for _ in views.x))).logs
    assert logs["feature_std"] < 1e-3 and logs["alignment"] > 0.999
    healthy = build(cls)(distinct(views)).logs
    assert 0.3 < healthy["feature_std"] < 1.05


@each_method
def test_branches_give_rows_of_features(cls: type[Method]) -> None:
    method = build(cls).eval()
    branches = method.branches()
    assert branches["online"].encoder is method.encoder
    assert branches.keys() <= {"online", "target"}
    x = views_for(cls, 4).x[0]
    for branch in branches.values():
        features = branch.encoder(x)
        assert features.shape == (4, branch.encoder.dim)
        assert branch.projector is None or branch.projector(features).shape[:-1] == (4,)
    if "target" in branches:
        shared = branches["online"].modules() & branches["target"].modules()
        assert not any(True for module in shared for _ in module.parameters())
        assert not any(
            p.requires_grad for m in branches["target"].modules() for p in m.parameters()
        )


@each_method
def test_what_a_method_needs_is_refused_when_it_is_missing(cls: type[Method]) -> None:
    views = views_for(cls, 4)
    if cls.needs_labels:
        with pytest.raises(ValueError, match="labeled"):
            build(cls)(replace(views, labels=None))
    else:
        assert torch.isfinite(build(cls)(replace(views, labels=None)).loss)
    method = build(cls)
    if method.needs:
        method.given = ()
        with pytest.raises(ValueError, match=f"trained {method.needs[0]}.*earlier phase"):
            method(views)


@each_method
def test_methods_that_need_patches_refuse_encoders_without(
    cls: type[Method], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not cls.needs_patches:
        pytest.skip("it takes any encoder")
    monkeypatch.setattr(cls, "needs_patches", False)
    with pytest.raises(ValueError, match="vit"):
        build(cls)


@each_method
def test_same_seed_gives_the_same_loss_whatever_the_global_generator(cls: type[Method]) -> None:
    first, second = build(cls, seed=3), build(cls, seed=3)
    state = torch.get_rng_state()
    one = first(views_for(cls, 6)).loss
    assert torch.equal(state, torch.get_rng_state())  # randomness comes from views.draws alone
    torch.manual_seed(99)
    assert torch.equal(one, second(views_for(cls, 6)).loss)


@each_method
def test_state_round_trip(cls: type[Method]) -> None:
    method, other = build(cls, seed=0), build(cls, seed=1)
    train(method, [views_for(cls, 6, step) for step in range(2)])
    other.load_state_dict(method.state_dict())
    more = [views_for(cls, 6, step) for step in range(2, 5)]
    assert train(method, more) == train(other, more)


@each_method
def test_runs_compiled_without_recompiling_for_each_step(cls: type[Method]) -> None:
    plain, method = build(cls), build(cls)
    torch._dynamo.reset()
    compiled = torch.compile(method, backend="aot_eager")
    codebook = any(isinstance(module, Codebook) for module in method.modules())
    for step in range(3 + codebook):
        views = views_for(cls, 4, step)
        method.before_step()
        # A codebook starts in the first step, which changes the graph once.
        last_change = 1 if codebook else 0
        with (
            torch._dynamo.config.patch(error_on_recompile=step > last_change),
            warnings.catch_warnings(),
        ):
            if codebook:  # it learns between two graphs
                warnings.simplefilter("ignore")
            found = compiled(views).loss
        found.backward()
        expected = plain(views).loss
        expected.backward()
        torch.testing.assert_close(found, expected)
    assert_close(gradients(method), gradients(plain), 1e-4)


@each_method
def test_trains_under_quantize(cls: type[Method]) -> None:
    method = build(cls)
    quantizes_itself = getattr(method.encoder, "quantization", None) is not None
    if not quantizes_itself:
        quant.quantize_(method.encoder, "all")
    quant.calibrate(method.encoder, [views_for(cls, 6).x[0]])
    plain = method(views_for(cls, 6)).loss
    if quantizes_itself:
        assert torch.isfinite(plain)  # it draws the bits of each step
        return
    with quant.bits(method.encoder, weight=3, activation=4):
        step = method(views_for(cls, 6))
        step.loss.backward()
    assert torch.isfinite(step.loss) and not torch.equal(step.loss, plain)
    for name, parameter in method.encoder.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
            assert parameter.grad.any(), name


@each_method
def test_micro_batches_equal_one_batch_or_are_refused_with_a_reason(cls: type[Method]) -> None:
    whole, parts = build(cls), build(cls)
    views = distinct(views_for(cls, 6))
    for method in (whole, parts):
        without_batch_norm(method)
        method(views)  # codebooks start from the first batch
        method.before_step()
    loss = whole(views).loss
    loss.backward()
    sums = torch.zeros(())
    for start in range(0, 6, 2):
        part = parts(rows(views, start, start + 2)).loss / 3
        part.backward()
        sums += part.detach()
    same = torch.allclose(sums, loss, rtol=1e-5, atol=1e-6)
    assert same == (cls.no_accumulation == "")
    if same:
        assert_close(gradients(parts), gradients(whole), 1e-5)


@each_method
def test_muon_trains_its_weight_matrices(cls: type[Method]) -> None:
    method = build(cls)
    optimizer = Muon(lr=0.01).build(method, 6)
    matrices = [g for g in optimizer.param_groups if g["orthogonal"]]
    names = [name for group in matrices for name in group["param_names"]]
    start = {name: p.detach().clone() for name, p in method.named_parameters() if name in names}
    for step in range(2):
        optimizer.zero_grad()
        method.before_step()
        loss = method(views_for(cls, 6, step)).loss
        loss.backward()
        assert loss.isfinite()
        optimizer.step()
        method.after_step(step / 2)
    parameters = dict(method.named_parameters())
    moved = [name for name in start if not torch.equal(start[name], parameters[name])]
    assert moved and all(parameters[name].isfinite().all() for name in moved)


@each_method
def test_after_step_moves_momentum_copies_and_the_optimizer_does_not(cls: type[Method]) -> None:
    method = build(cls)
    method(views_for(cls, 6))  # codebooks start from the first batch
    target = method.branches().get("target")
    moving = {p for m in target.modules() for p in m.parameters()} if target else set()
    frozen = {name: p for name, p in method.named_parameters() if not p.requires_grad}
    assert moving <= set(frozen.values())
    before = {name: p.clone() for name, p in frozen.items()}
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.5)
    method(views_for(cls, 6)).loss.backward()
    optimizer.step()
    assert all(p.grad is None and torch.equal(p, before[name]) for name, p in frozen.items())
    trained = {name: p.clone() for name, p in method.named_parameters() if p.requires_grad}
    method.after_step(0.5)
    for name, p in frozen.items():
        # Biases in front of a BatchNorm get no gradient to speak of, and need not have moved.
        assert p.ndim == 1 or p not in moving or not torch.equal(p, before[name]), name
    assert all(
        torch.equal(p, trained[name]) for name, p in method.named_parameters() if p.requires_grad
    )


@each_method
def test_loss_depends_on_the_order_of_views_only_where_stated(cls: type[Method]) -> None:
    views = make_views(min(2, cls.max_views or 2), 6)
    if len(views.x) == 1:
        pytest.skip("there is no other view")
    swapped = replace(views, x=views.x[::-1], tags=views.tags[::-1])
    loss, expected = build(cls)(swapped).loss, build(cls)(views).loss
    same = torch.allclose(loss, expected, rtol=1e-5, atol=1e-5)
    assert same == (not cls.asymmetric_views)
    if cls.max_views is None and same:
        three = make_views(3, 6)
        order = [1, 0, 2]
        swapped = replace(three, x=tuple(three.x[i] for i in order))
        torch.testing.assert_close(
            build(cls)(swapped).loss, build(cls)(three).loss, rtol=1e-5, atol=1e-5
        )


@each_method
def test_small_batches_are_finite_or_clearly_refused(cls: type[Method]) -> None:
    assert torch.isfinite(build(cls)(views_for(cls, 2)).loss)
    if cls.min_samples > 1:
        with pytest.raises(ValueError, match=f"at least {cls.min_samples} .*, got 1"):
            build(cls).require_batch(1)
        assert torch.isfinite(build(cls)(views_for(cls, cls.min_samples)).loss)
        return
    bare = build(cls)
    bare.require_batch(1)
    without_batch_norm(bare)
    single = bare(views_for(cls, 1)).loss
    assert torch.isfinite(single)
    # A method without negatives or statistics of the batch learns from a single sample too.
    single.backward()
    gradients = [p.grad for p in bare.parameters() if p.grad is not None]
    assert any(bool(g.abs().max() > 1e-8) for g in gradients)
    try:
        loss = build(cls)(views_for(cls, 1)).loss
    except ValueError as error:
        assert "more than 1 value per channel" in str(error)
    else:
        assert torch.isfinite(loss)


@each_method
def test_wrong_number_of_views_is_refused(cls: type[Method]) -> None:
    for count in range(max(1, cls.min_views - 1), (cls.max_views or 3) + 2):
        if count >= cls.min_views and (cls.max_views is None or count <= cls.max_views):
            assert torch.isfinite(build(cls)(make_views(count, 4)).loss)
        else:
            with pytest.raises(ValueError, match=rf"takes .* views?, got {count}\. Change"):
                build(cls)(make_views(count, 4))


@each_method
def test_loss_is_computed_in_full_precision_under_autocast(cls: type[Method]) -> None:
    method = build(cls)
    with torch.autocast("cpu", torch.bfloat16):
        loss = method(views_for(cls, 6)).loss
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, build(cls)(views_for(cls, 6)).loss, rtol=0.05, atol=0.05)


@each_method
@pytest.mark.parametrize("value", [math.nan, 3e38])
def test_a_step_that_is_abandoned_leaves_nothing_behind(cls: type[Method], value: float) -> None:
    """One sample with NaN, or with finite values near the largest of float32."""
    method, twin = build(cls, batch_norm=True), build(cls, batch_norm=True)
    # The first batch starts codebooks; the loop refuses it before it can.
    for step, bad in enumerate((views_for(cls, 6, 0), views_for(cls, 6, 1))):
        before = ForwardState(method)
        before.keep()
        method.before_step()
        for x in bad.x:
            x[2] = value
        with contextlib.suppress(FloatingPointError):
            loss = method(bad).loss
            finite = loss.isfinite() & before.is_finite(loss.device)
            assert not bool(finite) or _is_unmoved(method, twin)
        before.abandon(step)
        assert _is_unmoved(method, twin)
        good = [views_for(cls, 6, 10 + step)]
        assert train(method, good) == train(twin, good)
        assert _is_unmoved(method, twin)


@each_method
def test_a_step_that_is_undone_leaves_nothing_behind(cls: type[Method]) -> None:
    """Steps are made before they are checked; one with NaN is as if it had not been."""
    late, twin = (_Steps(build(cls, batch_norm=True)) for _ in range(2))
    bad = (0, 2, 3, 6)  # the first batch starts codebooks, and none follows the last
    for number in range(7):
        views = views_for(cls, 6, number)
        if number not in bad:
            twin.step(number, views, wait=True)
        else:
            for x in views.x:
                x[2] = math.nan if number < 3 else 3e38
        late.step(number, views, wait=False)
    late.undo.settle()
    found, expected = late.tensors(), twin.tensors()
    assert found.keys() == expected.keys() and late.losses == twin.losses
    for name, tensor in found.items():
        assert torch.equal(tensor.nan_to_num(), expected[name].nan_to_num()), name
    assert late.guard.skipped == list(bad)


class _Steps:
    """The steps of the loop, for a method without a recipe."""

    def __init__(self, method: Method) -> None:
        self.method, self.guard = method, StepGuard(10)
        learning = [p for p in method.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(learning, lr=1e-3)
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        state = RunState(method, self.optimizer, scaler, None, self.guard, 6)  # type: ignore[arg-type]
        state.modules = {"average": None}
        self.undo = Undo(state)
        self.losses: list[float] = []

    def step(self, number: int, views: Views, *, wait: bool) -> None:
        loss = self.undo.settled(lambda: self._gradients(views))
        norm = gradient_norm(list(self.method.parameters()))
        finite = self.undo.before.is_finite(loss.device)
        sent = SentScalars(loss, norm, finite, {})
        if sent.read().is_finite:
            self.losses.append(float(loss))
        if self.undo.check(number, sent, wait=wait, scaled=False).allowed:
            self.optimizer.step()
            self.method.after_step((number + 1) / 10)

    def _gradients(self, views: Views) -> Tensor:
        self.optimizer.zero_grad()
        self.undo.before.keep()
        self.method.before_step()
        try:
            loss = self.method(views).loss
        except FloatingPointError:
            return torch.tensor(math.nan)
        loss.backward()
        return loss.detach()

    def tensors(self) -> dict[str, Tensor]:
        """All tensors of the method, and the moments."""
        named = {**dict(self.method.named_parameters()), **dict(self.method.named_buffers())}
        for name, parameter in self.method.named_parameters():
            for entry, value in self.optimizer.state.get(parameter, {}).items():
                named[f"{name}/{entry}"] = value
        return named


def _is_unmoved(one: nn.Module, other: nn.Module) -> bool:
    first, second = dict(one.named_buffers()), dict(other.named_buffers())
    return first.keys() == second.keys() and all(
        torch.equal(first[name].nan_to_num(), second[name].nan_to_num()) for name in first
    )


# ---------------------------------------------------------------------- several processes


STEPS, BATCH = 3, 8
NETWORKS = ("plain encoder", "encoder with BatchNorm", "fp64")
"""The last has kinks (ReLU, rounding), at which fp32 turns an error of 1e-7 into one of 1e-2. In
fp64 only a difference of the algorithms is left."""
_as_float, _uniform = Tensor.float, Draws.uniform


@contextlib.contextmanager
def _arithmetic(network: str) -> Iterator[None]:
    """Let `float()` keep fp64, and let draws have it, inside the block."""
    if network == "fp64":
        Tensor.float = lambda x: x if x.dtype == torch.float64 else _as_float(x)  # type: ignore
        Draws.uniform = lambda *args, **kw: _uniform(*args, **kw).double()  # type: ignore
    try:
        yield
    finally:
        Tensor.float, Draws.uniform = _as_float, _uniform  # type: ignore[method-assign]


def _prepare(cls: type[Method], network: str) -> Method:
    method = build(cls, batch_norm=network != "plain encoder")
    if network == "fp64":
        for name, module in list(method.named_modules()):
            if isinstance(module, nn.GELU):
                owner, _, attribute = name.rpartition(".")
                setattr(method.get_submodule(owner), attribute, nn.ReLU())
        method.double()
    return synchronize_batch_norm(method)


def _batch(cls: type[Method], network: str, step: int) -> Views:
    views = views_for(cls, BATCH, step)
    return replace(views, x=tuple(x.double() for x in views.x)) if network == "fp64" else views


def _outcome(
    cls: type[Method], network: str, rank: int, world: int
) -> tuple[list[float], dict[str, Tensor], dict[str, Tensor]]:
    """Losses, last gradients and state of a method after some steps on the rows of a rank."""
    with _arithmetic(network):
        method: nn.Module = _prepare(cls, network)
        if world > 1:
            method = nn.parallel.DistributedDataParallel(method, broadcast_buffers=False)
        own = BATCH // world
        views = [
            rows(_batch(cls, network, step), rank * own, (rank + 1) * own) for step in range(STEPS)
        ]
        losses = train(method, views)
    raw: Any = getattr(method, "module", method)
    return losses, gradients(raw), {k: t.clone() for k, t in raw.state_dict().items()}


Case = tuple[type[Method], str]


def _worker(rank: int, folder: str, world: int, cases: Sequence[Case]) -> None:
    torch.set_num_threads(1)
    td.init_process_group(
        "gloo", init_method=f"file://{folder}/init", rank=rank, world_size=world,
        timeout=timedelta(seconds=120),  # other tests may have all cores
    )  # fmt: skip
    results = {(cls.__name__, kind): _outcome(cls, kind, rank, world) for cls, kind in cases}
    if rank == 0:
        torch.save(results, f"{folder}/results.pt")
    td.barrier()
    td.destroy_process_group()


@pytest.fixture(scope="session")
def trained_on_processes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int], dict[tuple[str, str], Any]]:
    """Train what the chosen tests need on a number of processes, which are started once."""
    chosen: list[dict[str, Any]] = [
        dict(item.callspec.params)
        for item in request.session.items
        if isinstance(item, pytest.Function) and "trained_on_processes" in item.fixturenames
    ]
    chosen = [one for one in chosen if not one["cls"].process_dependence]

    @functools.cache
    def results(world: int) -> dict[tuple[str, str], Any]:
        cases = [(one["cls"], one["network"]) for one in chosen if one["world"] == world]
        folder: Path = tmp_path_factory.mktemp("ranks")
        spawn(_worker, args=(str(folder), world, cases), nprocs=world)
        return dict(torch.load(folder / "results.pt", weights_only=True))

    return results


@pytest.mark.xdist_group("method_ranks")
@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("network", NETWORKS)
@each_method
def test_several_processes_train_as_one(
    cls: type[Method],
    network: str,
    world: int,
    trained_on_processes: Callable[[int], dict[tuple[str, str], Any]],
) -> None:
    if cls.process_dependence:
        pytest.skip(cls.process_dependence)
    losses, expected, state = _outcome(cls, network, 0, 1)
    found, found_gradients, found_state = trained_on_processes(world)[cls.__name__, network]
    exact = network == "fp64"
    assert found == pytest.approx(losses, rel=1e-5, abs=1e-5)
    assert_close(found_gradients, expected, 1e-8 if exact else 1e-4)
    if exact:  # queues, centers, codebooks and momentum copies too
        assert_close(found_state, state, 1e-8)


@each_method
def test_views_of_the_momentum_copy_are_encoded_by_it_or_refused(cls: type[Method]) -> None:
    method = build(cls)
    own = views_for(cls, 6)
    views = replace(own, target_x=make_views(len(own.x), 6, step=1).x)
    if cls is SSQL or not cls.takes_target_views:  # SSQL as its base, SimSiam
        with pytest.raises(ValueError, match="`views.per_branch` needs a method with a momentum"):
            method(views)
        return
    losses = [
        float(build(cls)(v).loss.detach()) for v in (own, views, replace(views, target_x=own.x))
    ]
    assert losses[0] == losses[2] != losses[1]
