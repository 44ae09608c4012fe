"""Start the processes of a test as copies of one that has imported everything.

A process that is spawned imports PyTorch and the package for several seconds; a copy does not. The
process that is copied runs no tests, and has no threads.
"""

import multiprocessing
from collections.abc import Callable
from typing import Any

from torch.multiprocessing.spawn import start_processes

PRELOADED = (
    "torch.distributed",
    "torch.distributed.launcher.api",
    "torch.nn.parallel",
    "torch._dynamo",
    "sklearn.datasets",
    "sklearn.linear_model",
    "typer._adapters",
    "pydantic",
    "mezzotint.cli.training",
    "mezzotint.train.plan",
    "mezzotint.train.loop",
    "mezzotint.train.saver",
    "mezzotint.runs.evaluate",
    "mezzotint.report.page",
    "tests.imported",
)


def spawn(
    worker: Callable[..., None], args: tuple[Any, ...], nprocs: int, *, join: bool = True
) -> Any:
    """Run `worker(rank, *args)` in `nprocs` processes; its first error is raised here."""
    multiprocessing.set_forkserver_preload([*PRELOADED])
    return start_processes(  # type: ignore[no-untyped-call]
        worker, args, nprocs=nprocs, join=join, start_method="forkserver"
    )
