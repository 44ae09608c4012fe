"""The end of every command: its exit code, and one line for what went wrong."""

import os
import sys
from collections.abc import Callable
from typing import Any

import typer

from mezzotint.cli.app import app


def main() -> None:
    """Run the command line. Errors are one line; 2 is bad input, 1 a failure, 130 and 143 a stop that saved."""
    # OpenMP's threads spin while they wait: ruinous beside another program, and slow alone if they never do. A short
    # spin is good in both cases (docs/log.md has the figures). It is read when torch is loaded, which is later.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    sys.exit(_guarded(lambda: app(standalone_mode=False)))


def _guarded(action: Callable[[], Any]) -> int:
    try:
        code = action()
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except typer.Exit as stop:
        return int(stop.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("stopped", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        message = getattr(error, "format_message", None)
        if message is not None:  # of the command line's parser, whose classes typer does not export
            if type(error).__name__ == "NoArgsIsHelpError":
                return 0  # the help is already on the screen
            return _fail(" ".join(message().split()), 2)
        if "--debug" in sys.argv:
            raise
        number = getattr(error, "number", None)
        if isinstance(number, int):  # Interrupted, told apart without importing torch
            return _fail("stopped, and saved: go on with --resume and the same --out", 128 + number)
        text = " ".join(str(error).split()) or type(error).__name__
        code = getattr(error, "exit_code", None)
        if isinstance(code, int):  # a refusal, told apart in the same way: the message says all there is
            return _fail(text, code)
        if isinstance(error, ValueError):
            return _fail(text, 2)
        return _fail(text if isinstance(error, OSError) else f"{type(error).__name__}: {text} (--debug shows where)", 1)


def _fail(message: str, code: int) -> int:
    print(f"mezzotint: {message}", file=sys.stderr)
    return code
