"""Named points at which a test can make a run fail, through the variable `MEZZOTINT_FAULT`.

`MEZZOTINT_FAULT=checkpoint.after_model:step=4:kill` kills the process at that point; `raise`
raises an error, `enospc` the error of a full disk, `nan` makes the caller's value NaN, `sigterm`
and `sigint` send the signal, and `stop` suspends the process. With `:rank=1` at the end only this
process of torchrun fails. Without the variable nothing happens.
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

_SIGNALS = {"sigterm": signal.SIGTERM, "sigint": signal.SIGINT, "stop": signal.SIGSTOP}


def point(name: str, step: int) -> bool:
    """Fail if the environment names this point and step.

    Returns:
        Whether the caller must make its value NaN.
    """
    plan = os.environ.get("MEZZOTINT_FAULT")
    if not plan:
        return False
    where, at, action, *which = plan.split(":")
    if where not in POINTS:
        raise ValueError(
            f"MEZZOTINT_FAULT must name one of the points {', '.join(POINTS)}, got {where!r}. "
            "Unset it to run without faults."
        )
    if where != name or int(at.removeprefix("step=")) != step:
        return False
    if which and which[0] != f"rank={os.environ.get('RANK', '0')}":
        return False
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action in _SIGNALS:
        os.kill(os.getpid(), _SIGNALS[action])
    elif action == "enospc":
        raise OSError(errno.ENOSPC, "No space left on device")
    elif action == "raise":
        raise RuntimeError(f"fault injected at {name}, step {step}")
    return action == "nan"
