"""Runs on a SLURM cluster, submitted through submitit; they resume by themselves after preemption.

One task per GPU; the tasks join each other as under `torchrun`. Before preemption or the time
limit, SLURM sends SIGUSR2: the loop then stops at the next step and saves, and the job is queued
again, to resume from there bit for bit. A job that was killed without a warning and queued again
resumes from its newest good checkpoint.

    RUN/          the run
    RUN.slurm/    logs of its tasks, and submitit's files
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
    """Split the command line into the recipe with its overrides, and the options of SLURM.

    Args:
        arguments: as on the command line. `KEY=VALUE` without a dot is an option of SLURM, unless
            KEY is a section.

    Raises:
        RecipeError: for an unknown option, or one that must be a count and is not.
    """
    from mezzotint.recipe.schema import FAMILIES

    rest, options = [], {}
    for word in arguments:
        key, equals, value = word.partition("=")
        if not equals or "." in key or key in FAMILIES or key == "phases":
            rest.append(word)
        elif key not in _KEYS:
            raise RecipeError(
                f"Options of --slurm are {', '.join(_KEYS)}, got {word!r}.{nearest(key, _KEYS)}"
            )
        elif key in _COUNTS and (
            not value.isdecimal() or (int(value) < 1 and key != "gpus_per_node")
        ):
            raise RecipeError(
                f"`{key}` of --slurm must be a whole number of at least 1, got {value!r}. "
                f"Write {key}=8, for example."
            )
        else:
            options[key] = int(value) if key in _COUNTS else value
    if options.get("cluster", "slurm") not in ("slurm", "local"):
        raise RecipeError(
            f"`cluster` of --slurm must be slurm or local, got {options['cluster']!r}. "
            "Use local to try it on this machine."
        )
    return rest, options


def torchrun_lines(arguments: Sequence[str], options: dict[str, Any]) -> list[str]:
    """Write the commands that start the same run without SLURM."""
    import shlex

    nodes, processes = options.get("nodes", 1), tasks_per_node(options)
    words = shlex.join(["-m", "mezzotint", "pretrain", *arguments])
    if nodes == 1:
        return [f"torchrun --nproc-per-node={processes} {words}"]
    meeting = "--rdzv-backend=c10d --rdzv-id=run --rdzv-endpoint=$FIRST:29500"
    return [
        f"# on each of the {nodes} machines, with FIRST set to the name of one of them",
        f"torchrun --nnodes={nodes} --nproc-per-node={processes} {meeting} {words}",
    ]


def tasks_per_node(options: dict[str, Any]) -> int:
    """Count the processes per machine: one per GPU, unless stated."""
    return int(options.get("tasks_per_node", options.get("gpus_per_node", 1) or 1))


def submit(job: "Job", options: dict[str, Any]) -> Any:
    """Queue a run.

    Args:
        job: the run.
        options: options of SLURM, by the names of `_KEYS`.

    Returns:
        submitit's job.

    Raises:
        ModuleNotFoundError: when submitit is not installed.
        RecipeError: on a machine without SLURM, or for a run's directory that is in use.
    """
    try:
        import submitit
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "--slurm needs submitit. Install it with pip install 'mezzotint[slurm]'.",
            name="submitit",
        ) from error
    from mezzotint.train.rundir import prepare

    cluster = options.get("cluster", "slurm")
    if cluster == "slurm" and shutil.which("sbatch") is None:
        raise RecipeError(
            "--slurm needs a machine with sbatch, and this one has none. Log in to the cluster, "
            "give cluster=local to try it here, or see --dry-run for torchrun."
        )
    if not job.options["resume"] and not job.options["overwrite"]:
        # A directory in use is refused now, and not hours later in the queue.
        prepare(job.out, resume=False, overwrite=False)
    executor = submitit.AutoExecutor(job.logs, cluster, slurm_max_num_timeout=_MOST_TIMEOUTS)
    known: dict[str, Any] = {
        "timeout_min": 60,
        **{key: options[key] for key in _COUNTS if key in options},
    }
    executor.update_parameters(
        name=job.out.name,
        tasks_per_node=tasks_per_node(options),
        slurm_signal_delay_s=_WARNED_BEFORE_S,
        **{key: value for key, value in known.items() if key != "tasks_per_node"},
        **{f"slurm_{key}": options[key] for key in _OWN if key in options},
    )
    return executor.submit(job)


class Job:
    """A run as each task of the cluster starts it; submitit calls it again after a preemption.

    Args:
        run: the function that trains, called with the arguments, `out` and the options.
        arguments: recipe and overrides.
        out: the run's directory.
        options: `resume`, `overwrite` and the other flags of `mezzotint pretrain`.
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
        """The directory of the tasks' logs: next to the run, whose directory must be empty."""
        return self.out.with_name(f"{self.out.name}.slurm")

    def __call__(self) -> None:
        """Train, as one of the tasks."""
        from mezzotint.train.signals import Interrupted

        os.chdir(self.folder)
        rank, name = _join()
        # One file per task, so that no task sees the file that another has just written.
        begun = self.logs / f"{name}-{rank}.begun"
        again = begun.exists()
        begun.touch()
        warned = _Warned()
        try:
            arguments, resume, overwrite = self._now(again)
            options = {**self.options, "resume": resume, "overwrite": overwrite}
            self.run(arguments, out=self.out, **options)
        except Interrupted:
            if not warned.received:
                raise
            warned.queue_again()

    def _now(self, again: bool) -> tuple[list[str], bool, bool]:
        """Choose the arguments, and whether to resume or to overwrite."""
        if not again or self.options["resume"]:
            return self.arguments, self.options["resume"], self.options["overwrite"]
        if any(self.out.glob("checkpoints/step-*")) or any(self.out.glob("*/checkpoints/step-*")):
            return [], True, False
        return self.arguments, False, True  # killed before its first checkpoint

    def checkpoint(self) -> Any:
        """Make the job that submitit queues after a preemption."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


class _Warned:
    """Handle SIGUSR2 before submitit does, so that a running loop saves first.

    Attributes:
        received: whether the signal came.
    """

    def __init__(self) -> None:
        self.received = False
        self.theirs: Any = signal.signal(signal.SIGUSR2, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        # A running loop handles SIGUSR1: it stops at the next step and saves.
        if callable(signal.getsignal(signal.SIGUSR1)):
            os.kill(os.getpid(), signal.SIGUSR1)
        else:
            self.queue_again()

    def queue_again(self) -> None:
        """Let submitit queue the job again; its first task does so, and does not return."""
        self.theirs(signal.SIGUSR2, None)
        sys.exit(0)


def _join() -> tuple[int, str]:
    """Set the environment that `torchrun` would set; return the rank and the job's name."""
    import submitit

    job = submitit.JobEnvironment()
    digits = int("".join(c for c in job.job_id if c.isdecimal()) or "0")
    os.environ |= {
        "RANK": str(job.global_rank),
        "WORLD_SIZE": str(job.num_tasks),
        "LOCAL_RANK": str(job.local_rank),
        "MASTER_ADDR": job.hostnames[0],
        "MASTER_PORT": str(_PORTS[0] + digits % _PORTS[1]),
    }
    return int(job.global_rank), str(job.job_id)
