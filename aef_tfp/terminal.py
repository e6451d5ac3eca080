"""A clean terminal for the command lines."""

import atexit
import contextlib
import gc
import importlib
import io
import itertools
import os
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType

from aef_tfp.memory import collector_paused, use_memory_pool

__all__ = ["Terminated", "import_quietly", "run_command", "waiting"]

# Between two turns of the sign that something is being done.
_TURN_SECONDS = 0.2


class Terminated(KeyboardInterrupt):
    """SIGTERM, as an exception: what has to be cleaned up at an end, is."""

    signal_number = signal.SIGTERM


def run_command(
    run: Callable[[list[str]], int],
    argv: Sequence[str] | None,
    interrupted: str,
    errors: tuple[type[Exception], ...] = (ValueError, OSError, FloatingPointError),
) -> int:
    """Runs a command line; an error of the user's is one line, not a traceback.

    Args:
        run: What the command does with its arguments; returns the exit status.
        argv: The arguments; those of the process if None.
        interrupted: What to say when the user interrupts it.
        errors: Those that are the user's to mend.

    Returns:
        The exit status: that of `run`, 1 after an error or the `exit_status` that it
        has, 128 and the number of the signal after an interruption.
    """
    warnings.formatwarning = _warning_in_one_line
    _open_streams()
    if argv is None:
        # The process ends with the command. Python would first look through all of
        # TensorFlow's objects once more for cycles, which takes more than a second.
        atexit.register(gc.freeze)
    try:
        with _terminated_as_exception():
            status = run(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # Whoever reads the output (`| head`) has had enough. What is left in the buffer
        # goes nowhere, or Python would complain once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except errors as error:
        print(f"error: {error}", file=sys.stderr)
        return getattr(error, "exit_status", 1)
    except KeyboardInterrupt as interruption:
        print(interrupted, file=sys.stderr)
        return 128 + getattr(interruption, "signal_number", signal.SIGINT)


def _open_streams() -> None:
    """Makes the streams such that writing a text to them is possible."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            # Closed by whoever started the process.
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - until the end
        elif isinstance(stream, io.TextIOWrapper):
            # The name of a run may have letters that the terminal has not.
            stream.reconfigure(errors="backslashreplace")


@contextlib.contextmanager
def _terminated_as_exception() -> Iterator[None]:
    def terminate(number: int, frame: object) -> None:
        raise Terminated

    former = signal.getsignal(signal.SIGTERM)
    # Who has another wish for it keeps that, and other threads have no say.
    in_main = threading.current_thread() is threading.main_thread()
    if former != signal.SIG_DFL or not in_main:
        yield
        return
    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


def _warning_in_one_line(message, category, filename, lineno, line=None) -> str:
    # Where in the code a warning comes from helps its author, not its reader.
    return f"warning: {message}\n"


@contextlib.contextmanager
def waiting(what: str, *, is_shown: bool = True) -> Iterator[None]:
    """Says what is being done while one waits.

    A line on the standard output; in a terminal it turns, counts the seconds, and goes
    away when it is done.

    Args:
        what: What is being done, e.g. `"reading images"`.
        is_shown: Whether to say anything.
    """
    if not is_shown:
        yield
        return
    stream = sys.stdout
    if not stream.isatty():
        print(f"{what} ...", file=stream, flush=True)
        yield
        return
    done = threading.Event()

    def turn() -> None:
        begin = time.monotonic()
        for sign in itertools.cycle("|/-\\"):
            seconds = time.monotonic() - begin
            stream.write(f"\r{sign} {what}, {seconds:.0f} s")
            stream.flush()
            if done.wait(_TURN_SECONDS):
                break
        stream.write("\r\x1b[K")
        stream.flush()

    thread = threading.Thread(target=turn, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def import_quietly(name: str) -> ModuleType:
    """Imports a module, and TensorFlow with it, without TensorFlow's start-up notes.

    Its libraries print notes on the hardware to the standard error before any log level
    is read, so they are caught at the file descriptor. If the import fails, they are
    shown after all. Later notes are held back by `TF_CPP_MIN_LOG_LEVEL`, unless that is
    set already.

    Args:
        name: Full name of the module.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if "tensorflow" not in sys.modules:
        use_memory_pool()
    with collector_paused():
        with _held_back_standard_error():
            importlib.import_module("tensorflow").config.list_physical_devices()
        return importlib.import_module(name)


@contextlib.contextmanager
def _held_back_standard_error() -> Iterator[None]:
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as notes:
        os.dup2(notes.fileno(), 2)
        try:
            yield
        except BaseException:
            notes.seek(0)
            os.write(kept, notes.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
