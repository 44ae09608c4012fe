"""Runs on a cluster: submitted to SLURM through submitit, stopped by preemption, and gone on with by themselves.

One task a GPU; each joins the others as under `torchrun`. Before SLURM takes the machines away, or
the time is up, it sends SIGUSR2: the loop then stops at the next step and saves, and the job is
queued again, to go on from there, bit for bit. A job that was killed without a warning, and queued
again by SLURM, goes on from its newest good checkpoint.

    RUN/          the run
    RUN.slurm/    logs of its tasks, and what submitit keeps
"""

import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from mezzotint.recipe.schema import RecipeError, nearest

_OWN = ("partition", "account", "qos", "constraint", "exclude", "comment")
_COUNTS = ("nodes", "gpus_per_node", "tasks_per_node", "cpus_per_task", "timeout_min", "mem_gb")
_KEYS = (*_OWN, *_COUNTS, "cluster")
_WARNED_BEFORE_S = 120
_MOST_TIMEOUTS = 1000
_PORTS = (20_000, 20_000)  # the first, and how many


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Divide what follows `--slurm` into the recipe with its overrides, and what SLURM is asked for.

    Args:
        arguments: as they stand on the command line. `KEY=VALUE` without a dot is SLURM's, unless
            KEY is a section.

    Raises:
        RecipeError: for a key that is neither, or a count that is none.
    """
    from mezzotint.recipe.recipe import FAMILIES

    rest, asked = [], {}
    for word in arguments:
        key, equals, value = word.partition("=")
        if not equals or "." in key or key in FAMILIES or key == "phases":
            rest.append(word)
        elif key not in _KEYS:
            raise RecipeError(
                f"got {word!r} with --slurm; allowed: {', '.join(_KEYS)}.{nearest(key, _KEYS)}"
            )
        elif key in _COUNTS and (
            not value.isdecimal() or (int(value) < 1 and key != "gpus_per_node")
        ):
            raise RecipeError(
                f"got {word!r} with --slurm; allowed is a whole number from 1 on, such as {key}=8"
            )
        else:
            asked[key] = int(value) if key in _COUNTS else value
    if asked.get("cluster", "slurm") not in ("slurm", "local"):
        raise RecipeError(
            f"got cluster={asked['cluster']}; allowed: slurm, or local to try it on this machine"
        )
    return rest, asked


def torchrun_lines(arguments: Sequence[str], asked: dict[str, Any]) -> list[str]:
    """The same run without SLURM: what is to be typed on every machine."""
    import shlex

    nodes, processes = asked.get("nodes", 1), tasks_a_node(asked)
    words = shlex.join(["-m", "mezzotint", "pretrain", *arguments])
    if nodes == 1:
        return [f"torchrun --nproc-per-node={processes} {words}"]
    meeting = "--rdzv-backend=c10d --rdzv-id=run --rdzv-endpoint=$FIRST:29500"
    return [
        f"# on each of the {nodes} machines, FIRST being the name of one of them",
        f"torchrun --nnodes={nodes} --nproc-per-node={processes} {meeting} {words}",
    ]


def tasks_a_node(asked: dict[str, Any]) -> int:
    """Processes on a machine: one a GPU, unless stated."""
    return int(asked.get("tasks_per_node", asked.get("gpus_per_node", 1) or 1))


def submit(job: "Job", asked: dict[str, Any]) -> Any:
    """Queue a run.

    Args:
        job: what is run.
        asked: of SLURM, by the names of `_KEYS`.

    Returns:
        submitit's job.

    Raises:
        ModuleNotFoundError: without submitit, with what to install.
        RecipeError: on a machine without SLURM, or for a run's directory that is in use.
    """
    try:
        import submitit
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "--slurm needs submitit; install it with pip install 'mezzotint[slurm]'",
            name="submitit",
        ) from error
    from mezzotint.train.rundir import prepare

    cluster = asked.get("cluster", "slurm")
    if cluster == "slurm" and shutil.which("sbatch") is None:
        raise RecipeError(
            "got --slurm on a machine without sbatch; allowed is one where SLURM takes jobs: log in there, give "
            "cluster=local to try it here, or see --dry-run for torchrun"
        )
    if not job.options["resume"] and not job.options["overwrite"]:
        prepare(job.out, resume=False, overwrite=False)  # refused now, and not in the queue
    executor = submitit.AutoExecutor(job.logs, cluster, slurm_max_num_timeout=_MOST_TIMEOUTS)
    known: dict[str, Any] = {
        "timeout_min": 60,
        **{key: asked[key] for key in _COUNTS if key in asked},
    }
    executor.update_parameters(
        name=job.out.name, tasks_per_node=tasks_a_node(asked), slurm_signal_delay_s=_WARNED_BEFORE_S,
        **{key: value for key, value in known.items() if key != "tasks_per_node"},
        **{f"slurm_{key}": asked[key] for key in _OWN if key in asked},
    )  # fmt: skip
    return executor.submit(job)


class Job:
    """A run as a task of the cluster does it; submitit keeps it, and calls it again after a preemption.

    Args:
        run: what trains: called with the arguments, `out` and the options.
        arguments: recipe and overrides.
        out: the run's directory.
        options: `resume`, `overwrite` and the others of `mezzotint pretrain`.
    """

    def __init__(
        self,
        run: Callable[..., None],
        arguments: Sequence[str],
        out: Path,
        options: dict[str, bool],
    ) -> None:
        self.run = run
        self.arguments, self.out, self.options = list(arguments), out.absolute(), options
        self.folder = os.getcwd()

    @property
    def logs(self) -> Path:
        """Where the tasks' logs go: beside the run, whose directory is to be empty."""
        return self.out.with_name(f"{self.out.name}.slurm")

    def __call__(self) -> None:
        """Train, on one of the tasks."""
        from mezzotint.train.guard import Interrupted

        os.chdir(self.folder)
        rank, name = _join()
        begun = (
            self.logs / f"{name}-{rank}.begun"
        )  # a task each, so that none sees what another has just written
        again = begun.exists()
        begun.touch()
        warned = _Warned()
        try:
            arguments, resume, overwrite = self._now(again)
            options = {**self.options, "resume": resume, "overwrite": overwrite}
            self.run(arguments, out=self.out, **options)
        except Interrupted:
            if not warned.seen:
                raise
            warned.queue_again()

    def _now(self, again: bool) -> tuple[list[str], bool, bool]:
        """Arguments, and whether to resume or to overwrite."""
        if not again or self.options["resume"]:
            return self.arguments, self.options["resume"], self.options["overwrite"]
        if any(self.out.glob("checkpoints/step-*")) or any(self.out.glob("*/checkpoints/step-*")):
            return [], True, False
        return self.arguments, False, True  # killed before its first checkpoint

    def checkpoint(self) -> Any:
        """What submitit queues in place of this job."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


class _Warned:
    """Takes SIGUSR2 before submitit does: a loop that runs is asked to save first.

    Attributes:
        seen: whether it came.
    """

    def __init__(self) -> None:
        self.seen = False
        self.theirs: Any = signal.signal(signal.SIGUSR2, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.seen = True
        if callable(
            signal.getsignal(signal.SIGUSR1)
        ):  # the loop's own: stop at the next step and save
            os.kill(os.getpid(), signal.SIGUSR1)
        else:
            self.queue_again()

    def queue_again(self) -> None:
        """Let submitit queue the job again; only its first task does, and does not return."""
        self.theirs(signal.SIGUSR2, None)
        sys.exit(0)


def _join() -> tuple[int, str]:
    """Tell torch who this task is, as `torchrun` would; its rank, and the name of the job."""
    import submitit

    place = submitit.JobEnvironment()
    digits = int("".join(c for c in place.job_id if c.isdecimal()) or "0")
    os.environ |= {
        "RANK": str(place.global_rank), "WORLD_SIZE": str(place.num_tasks), "LOCAL_RANK": str(place.local_rank),
        "MASTER_ADDR": place.hostnames[0], "MASTER_PORT": str(_PORTS[0] + digits % _PORTS[1]),
    }  # fmt: skip
    return int(place.global_rank), str(place.job_id)
