"""What the processes of a step tell each other: formulas, checked against counted bytes.

The formulas of `TRAFFIC` say how many bytes a step of each method gives to its collectives, for n
processes with B samples each. The check trains every method for a step on n gloo processes and
counts the bytes of each collective that Python and `DistributedDataParallel` start. The second
table computes from the same formulas what larger runs send; nothing in it is measured.

    python benchmarks/scaling.py > benchmarks/results/scaling.md
"""

import argparse
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as td
from torch import Tensor, nn
from torch._C._distributed_c10d import GradBucket
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.spawn import spawn
from torch.nn.modules.batchnorm import _BatchNorm

from mezzotint import dist
from mezzotint.encoders.batch_norm import synchronize_batch_norm
from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.resnet import resnet8, resnet50
from mezzotint.encoders.vit import ViT
from mezzotint.methods.byol import BYOL
from mezzotint.methods.dino import DINO
from mezzotint.methods.embedding_quantization import EmbeddingQuantization
from mezzotint.methods.emix import EMix
from mezzotint.methods.lejepa import LeJEPA
from mezzotint.methods.mae import MAE
from mezzotint.methods.method import Method
from mezzotint.methods.moco import MoCo
from mezzotint.methods.mocov3 import MoCoV3
from mezzotint.methods.simclr import SimCLR
from mezzotint.methods.simsiam import SimSiam
from mezzotint.seeding import Draws, key_of
from mezzotint.types import Input, Views

PARTS = ("encoder", "projector", "predictor")
INPUT = Input((3, 16, 16), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


@dataclass(frozen=True)
class Traffic:
    """Bytes that each process gives to the collectives of a step.

    Attributes:
        reduced: of tensors that are summed over the processes (all-reduce).
        gathered: of tensors that all processes receive from each (all-gather).
    """

    reduced: float = 0.0
    gathered: float = 0.0

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(self.reduced + other.reduced, self.gathered + other.gathered)

    def sent(self, n: int) -> float:
        """Bytes that each process sends with ring algorithms."""
        return 2.0 * (n - 1) / n * self.reduced + (n - 1) * self.gathered


@dataclass(frozen=True)
class Sizes:
    """Sizes of a step.

    Attributes:
        n: processes.
        b: samples of each process, B.
        v: views of a sample, V.
        d: width of the projections, D.
        p: trained parameters, P.
        c: BatchNorm channels that a view passes with a gradient: (encoder, projector, predictor).
        k: prototypes (DINO), K.
        s: slices (LeJEPA), S.
        t: frequencies (LeJEPA), T.
    """

    n: int
    b: int
    v: int
    d: int
    p: int
    c: tuple[int, int, int] = (0, 0, 0)
    k: int = 0
    s: int = 0
    t: int = 0


def gradients(x: Sizes) -> Traffic:
    """Float32 gradients, averaged."""
    return Traffic(reduced=4 * x.p)


def norms(x: Sizes, passes: int, key_passes: int = 0, predictor_passes: int = 0) -> Traffic:
    """Means and variances of synchronized BatchNorms, and their gradients."""
    encoder, projector, predictor = x.c
    forward = passes * (encoder + projector) + predictor_passes * predictor
    keys = key_passes * (encoder + projector)
    return Traffic(reduced=8 * x.n * forward, gathered=8 * (forward + keys))


def rows(x: Sizes, count: int, *, gradient: bool) -> Traffic:
    """Rows of projections from all processes; with a gradient, it is summed on the way back."""
    own = 4 * count * x.b * x.d
    return Traffic(reduced=own * x.n if gradient else 0, gathered=own)


TRAFFIC: dict[str, Callable[[Sizes], Traffic]] = {
    "simclr": lambda x: norms(x, 1) + rows(x, x.v, gradient=True),
    "simsiam": lambda x: norms(x, x.v, 0, x.v),
    "byol": lambda x: norms(x, x.v, x.v, x.v),
    "moco": lambda x: norms(x, 1, 1) + rows(x, 1, gradient=False),
    "mocov3": lambda x: norms(x, 2, 2, 2) + rows(x, 2, gradient=False),
    "dino": lambda x: norms(x, 1, 1) + Traffic(reduced=4 * x.k),
    "lejepa": lambda x: norms(x, 1) + Traffic(reduced=2 * 8 * x.v * x.s * x.t),
    "mae": lambda x: Traffic(),
    "embedding_quantization": lambda x: rows(x, 2, gradient=True),
    "emix": lambda x: rows(x, 1, gradient=True),
}
"""Bytes of a step without those of `gradients`."""


@contextmanager
def counting() -> Iterator[dict[str, int]]:
    """Count the bytes of the collectives that are started from Python."""
    counts = {"reduced": 0, "gathered": 0}
    reduce, gather = td.all_reduce, td.all_gather

    def all_reduce(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        counts["reduced"] += tensor.numel() * tensor.element_size()
        return reduce(tensor, *args, **kwargs)

    def all_gather(parts: list[Tensor], tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        counts["gathered"] += tensor.numel() * tensor.element_size()
        return gather(parts, tensor, *args, **kwargs)

    td.all_reduce, td.all_gather = all_reduce, all_gather  # type: ignore[assignment]
    try:
        yield counts
    finally:
        td.all_reduce, td.all_gather = reduce, gather


def counted_step(method: Method, views: Views) -> Traffic:
    """Train a method for a step on this process, and count its bytes."""
    parallel = nn.parallel.DistributedDataParallel(method)
    parallel.broadcast_buffers = False  # as `train.parallel` sets it
    buckets = {"bytes": 0}

    def hook(state: None, bucket: GradBucket) -> torch.futures.Future[Tensor]:
        buckets["bytes"] += bucket.buffer().numel() * bucket.buffer().element_size()
        work = td.group.WORLD.allreduce([bucket.buffer()])  # type: ignore[union-attr]
        return work.get_future().then(lambda done: done.value()[0] / dist.world_size())

    parallel.register_comm_hook(None, hook)
    method.before_step()
    with counting() as counts:
        parallel(views).loss.backward()
        method.after_step(0.5)
    return Traffic(counts["reduced"] + buckets["bytes"], counts["gathered"])


def channels(module: nn.Module | None) -> int:
    """Count the BatchNorm channels of a module."""
    found = module.modules() if module is not None else ()
    return sum(m.num_features for m in found if isinstance(m, _BatchNorm))


def made(name: str, n: int, b: int) -> tuple[Method, Views, Sizes]:
    """Make a small method, views of a process, and their sizes."""
    torch.manual_seed(0)
    needs_patches = name in ("mae", "embedding_quantization", "emix")
    encoder: Encoder = (
        ViT(INPUT, width=16, depth=1, heads=2, patch=4)
        if needs_patches
        else resnet8(INPUT, stem="small", width=4)
    )
    d, v = 24, {"mae": 1, "embedding_quantization": 1, "emix": 1, "dino": 2}.get(name, 2)
    heads: dict[str, Callable[[], Method]] = {
        "simclr": lambda: SimCLR(encoder, hidden_dim=20, dim=d),
        "simsiam": lambda: SimSiam(encoder, hidden_dim=20, dim=d),
        "byol": lambda: BYOL(encoder, hidden_dim=20, dim=d),
        "moco": lambda: MoCo(encoder, hidden_dim=20, dim=d, queue_size=64),
        "mocov3": lambda: MoCoV3(encoder, hidden_dim=20, dim=d),
        "dino": lambda: DINO(encoder, hidden_dim=20, dim=d, prototypes=40),
        "lejepa": lambda: LeJEPA(encoder, hidden_dim=20, dim=d, slices=32),
        "mae": lambda: MAE(encoder),
        "embedding_quantization": lambda: EmbeddingQuantization(encoder, dim=d),
        "emix": lambda: EMix(encoder, dim=d),
    }
    method = synchronize_batch_norm(heads[name]()).train()
    x = tuple(torch.randn(b, *INPUT.shape) for _ in range(v))
    draws = Draws(torch.arange(b) + b * dist.rank(), key_of(0, "scaling"))
    p = sum(q.numel() for q in method.parameters() if q.requires_grad)
    c = tuple(
        channels(getattr(method, part, None)) for part in ("encoder", "projector", "predictor")
    )
    sizes = Sizes(n, b, v, d, p, c, k=40, s=32, t=16)  # type: ignore[arg-type]
    return method, Views(x, ("global",) * v, draws), sizes


def expected(name: str, sizes: Sizes) -> Traffic:
    """Compute the bytes of a step by the formulas."""
    return gradients(sizes) + TRAFFIC[name](sizes)


def _worker(rank: int, folder: str, n: int, names: list[str]) -> None:
    torch.set_num_threads(1)
    td.init_process_group("gloo", init_method=f"file://{folder}/{n}", rank=rank, world_size=n)
    found = {}
    for name in names:
        method, views, sizes = made(name, n, 4)
        counted, computed = counted_step(method, views), expected(name, sizes)
        found[name] = [counted.reduced, counted.gathered, computed.reduced, computed.gathered]
    if rank == 0:
        torch.save(found, f"{folder}/{n}.pt")
    td.barrier()
    td.destroy_process_group()


def check(n: int, names: list[str]) -> dict[str, list[float]]:
    """Count and compute the bytes of a step of each method on n gloo processes.

    Returns:
        For each method, bytes reduced and gathered as counted, and as computed.
    """
    with tempfile.TemporaryDirectory() as folder:
        spawn(_worker, (folder, n, names), nprocs=n)  # type: ignore[no-untyped-call]
        found: dict[str, list[float]] = torch.load(f"{folder}/{n}.pt", weights_only=True)
    return found


def state_bytes(x: Sizes, keys: int = 0, *, shards: int = 1) -> float:
    """Bytes of weights, gradients, AdamW's two moments, and a momentum copy of `keys` weights.

    Float32; divided over `shards` processes by FSDP2.
    """
    return (16 * x.p + 4 * keys) / shards


def activation_bytes(tokens: int, width: int, depth: int, heads: int) -> int:
    """Bytes that the blocks of a ViT keep of a sample for the backward pass, in float32."""
    return 4 * tokens * depth * (16 * width + heads + 4)


def kept_bytes(depth: int, width: int, heads: int, patch: int, samples: int) -> int:
    """Count the bytes that a ViT keeps for the backward pass, without its weights."""
    encoder = ViT(INPUT, width=width, depth=depth, heads=heads, patch=patch)
    weights = {p.untyped_storage().data_ptr() for p in encoder.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if (address := tensor.untyped_storage().data_ptr()) not in weights:
            kept[address] = tensor
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        encoder(torch.randn(samples, *INPUT.shape))
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


LARGE = Input((3, 224, 224), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def vit_large() -> Encoder:
    return ViT(LARGE, width=1024, depth=24, heads=16)


RUNS: dict[str, tuple[str, int, int, Callable[[], Method]]] = {
    "SimCLR, ResNet-50": ("simclr", 2, 128, lambda: SimCLR(resnet50(LARGE))),
    "BYOL, ResNet-50": ("byol", 2, 256, lambda: BYOL(resnet50(LARGE))),
    "MoCo v2, ResNet-50": ("moco", 2, 128, lambda: MoCo(resnet50(LARGE))),
    "MoCo v3, ViT-S/16": ("mocov3", 2, 256, lambda: MoCoV3(ViT(LARGE), head="vit")),
    "LeJEPA, ViT-L/16": ("lejepa", 8, 64, lambda: LeJEPA(vit_large())),
    "MAE, ViT-L/16": ("mae", 1, 0, lambda: MAE(vit_large())),
}
"""Method, views, width of the projections, and how it is made."""
BATCH = 4096
LINKS = ((8, 150e9), (64, 25e9), (512, 25e9))
"""Processes, and bytes that one is assumed to send in a second: NVLink; 200 Gb/s for each GPU."""


def sizes_of(name: str, n: int) -> tuple[Sizes, int]:
    """Return the sizes of a large run, and the weights of its momentum copy."""
    _, v, d, make = RUNS[name]
    with torch.device("meta"):
        method = make()
    p = sum(q.numel() for q in method.parameters() if q.requires_grad)
    keys = sum(q.numel() for q in method.parameters()) - p
    c = tuple(channels(getattr(method, part, None)) for part in PARTS)
    return Sizes(n, BATCH // n, v, d, p, c, s=1024, t=16), keys if v > 1 else 0  # type: ignore[arg-type]


def checked(processes: list[int]) -> Iterator[str]:
    """Yield the table of counted bytes."""
    yield "| method | processes | reduced, counted | by formula | gathered, counted | by formula |"
    yield "|---|---|---|---|---|---|"
    for n in processes:
        for name, (r, g, er, eg) in check(n, list(TRAFFIC)).items():
            yield f"| {name} | {n} | {r:,.0f} | {er:,.0f} | {g:,.0f} | {eg:,.0f} |"


def extrapolated() -> Iterator[str]:
    """Yield the table of larger runs."""
    yield "| run | parameters | MB sent by one of 8, 64, 512 GPUs | ms, assumed | GB of state |"
    yield "|---|---|---|---|---|"
    for name, (kind, *_) in RUNS.items():
        sent = []
        for n, rate in LINKS:
            x, keys = sizes_of(name, n)
            total = expected(kind, x).sent(n)
            sent.append((total / 1e6, total / rate * 1e3))
        yield (
            f"| {name} | {x.p / 1e6:.1f} M | {', '.join(f'{mb:,.0f}' for mb, _ in sent)} | "
            f"{', '.join(f'{ms:.1f}' for _, ms in sent)} | {state_bytes(x, keys) / 1e9:.2f} |"
        )


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--processes", type=int, nargs="+", default=[2, 4])
    processes = arguments.parse_args().processes
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    print("# Communication of a step\n")
    print("Bytes that each process gives to the collectives of a step: counted on gloo, and by the")
    print("formulas of `benchmarks/scaling.py`; 4 samples a process, tiny networks.\n")
    print(f"    python benchmarks/scaling.py   # commit {commit.stdout.strip()}, torch "
          f"{torch.__version__}, {os.cpu_count()} shared cores\n")  # fmt: skip
    print("\n".join(checked(processes)))
    print("\n## Larger runs, computed\n")
    print(f"Not measured: the same formulas for {BATCH} samples a step, fp32, ring algorithms,")
    print("150 GB/s from each GPU within a machine of 8, 25 GB/s between machines, and nothing")
    print("hidden behind computation. State: weights, gradients, AdamW's moments, momentum copy;")
    print("FSDP2 divides it by the number of GPUs.\n")
    print("\n".join(extrapolated()))


if __name__ == "__main__":
    main()
