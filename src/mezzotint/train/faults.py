"""Named places where a test can make a run fail. Without `MEZZOTINT_FAULT` in the environment nothing happens.

`MEZZOTINT_FAULT=checkpoint.after_model:step=4:kill` kills the process at that point; `raise`
raises, `enospc` raises what a full disk raises, `nan` tells the caller to spoil its value,
`sigterm` and `sigint` send the signal.
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
    """Act if the environment asks for a fault at this point and step.

    Returns:
        True when the caller is to spoil its value (`nan`), else False.
    """
    plan = os.environ.get("MEZZOTINT_FAULT")
    if not plan:
        return False
    where, at, action = plan.split(":")
    if where not in POINTS:
        raise ValueError(f"MEZZOTINT_FAULT: got the point {where!r}; allowed: {', '.join(POINTS)}")
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
