"""Named points at which a test can make a run fail, through the variable `MEZZOTINT_FAULT`.

`MEZZOTINT_FAULT=checkpoint.after_model:step=4:kill` kills the process at that point; `raise`
raises an error, `enospc` the error of a full disk, `nan` makes the caller's value NaN, `sigterm`
and `sigint` send the signal. Without the variable nothing happens.
"""

import errno
import os
import signal

POINTS = (
    "checkpoint.begin",
    "checkpoint.after_model",
    "checkpoint.after_optimizer",
    "checkpoint.after_state",
    "checkpoint.after_manifest",
    "checkpoint.before_rename",
    "checkpoint.after_rename",
    "checkpoint.after_retention",
    "loop.loss",
    "loop.after_backward",
    "loop.after_step",
)


def point(name: str, step: int) -> bool:
    """Fail if the environment names this point and step.

    Returns:
        Whether the caller must make its value NaN.
    """
    plan = os.environ.get("MEZZOTINT_FAULT")
    if not plan:
        return False
    where, at, action = plan.split(":")
    if where not in POINTS:
        raise ValueError(
            f"MEZZOTINT_FAULT must name one of the points {', '.join(POINTS)}, got {where!r}. "
            "Unset it to run without faults."
        )
    if where != name or int(at.removeprefix("step=")) != step:
        return False
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action in ("sigterm", "sigint"):
        os.kill(os.getpid(), signal.SIGTERM if action == "sigterm" else signal.SIGINT)
    elif action == "enospc":
        raise OSError(errno.ENOSPC, "No space left on device")
    elif action == "raise":
        raise RuntimeError(f"fault injected at {name}, step {step}")
    return action == "nan"
