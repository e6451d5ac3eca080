"""What is said in a terminal: a wait, and commands as they were typed there."""

import contextlib
import gc
import importlib
import itertools
import os
import shlex
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from aef_tfp.memory import collector_paused, use_memory_pool

__all__ = [
    "as_option",
    "as_typed",
    "import_quietly",
    "program_name",
    "progress_bar",
    "waiting",
]

# Between two turns of the sign that something is being done.
_TURN_SECONDS = 0.2

# Between two lines at most that say how far something got, where there is no bar.
LINE_SECONDS = 60.0

# Keras, and Keras 2 in TensorFlow Probability, import them where they are installed,
# for wrappers, plots and the preprocessing of images: a third of all imports' time.
_UNUSED_BY_COMMANDS = ("sklearn", "matplotlib", "IPython", "scipy")

# The scripts that a repository has for commands of the package.
_SCRIPTS = {
    "train": "run.py",
    "evaluate": "evaluate.py",
    "export": "export.py",
    "reproduce": "reproduce.py",
}


def program_name() -> str:
    """Returns what commands of the package begin with, as this process was started.

    Returns:
        `python -m aef_tfp` if that started it, else `aef-tfp`, which is there wherever
        the package is installed.
    """
    started = _started()
    is_module = (started.parent.name, started.name) == ("aef_tfp", "__main__.py")
    return "python -m aef_tfp" if is_module else "aef-tfp"


def as_option(name: str) -> str:
    """Returns the option that sets a field."""
    return f"--{name.replace('_', '-')}"


def as_typed(command: str, *arguments: object) -> str:
    """Returns a command of the package, to be typed as this process was started.

    Args:
        command: Its name, e.g. `"train"`.
        *arguments: Its arguments; they are quoted for a shell where that is needed.

    Returns:
        `python trainers/run.py ...` if a script of `trainers/` was started, else
        `aef-tfp train ...`; see `program_name`.
    """
    started = _started()
    is_script = started.name in (*_SCRIPTS.values(), "launch.py")
    if is_script and command in _SCRIPTS and _is_of_repository(started):
        script = started.with_name(_SCRIPTS[command])
        return shlex.join(["python", str(script), *map(str, arguments)])
    return " ".join([program_name(), shlex.join([command, *map(str, arguments)])])


def _started() -> Path:
    # Embedded interpreters have none, and an interactive one has an empty name.
    return Path(sys.argv[0] if getattr(sys, "argv", None) else "")


def _is_of_repository(script: Path) -> bool:
    # A user's own program may have such a name, too.
    folder = script.resolve().parent
    return folder.name == "trainers" and (folder.parent / "aef_tfp").is_dir()


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
            line = f"{sign} {what}, {seconds:.0f} s"
            stream.write(f"\r{line}")
            stream.flush()
            if done.wait(_TURN_SECONDS):
                break
        # Not every terminal has a code that clears a line.
        stream.write(f"\r{' ' * len(line)}\r")
        stream.flush()

    thread = threading.Thread(target=turn, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def progress_bar(
    title: str, total: int, verbose: Any = 1
) -> Callable[[int], Any] | None:
    """Shows the progress of something: Keras's bar under a title, or lines for a log.

    Args:
        title: What is being done.
        total: How much there is to be done.
        verbose: 0 shows nothing, 1 the bar; 2 and `"auto"` a line a minute at most.

    Returns:
        To be called with how much is done; None where nothing is shown.
    """
    if not verbose:
        return None
    if verbose != 1:
        return _progress_lines(title, total)
    # The rest of this module is there before Keras is.
    import keras

    print(f"{title}:", flush=True)
    bar = keras.utils.Progbar(total)
    return lambda done: bar.update(done, finalize=done >= total)


def _progress_lines(title: str, total: int) -> Callable[[int], None]:
    last = time.monotonic()

    def say(done: int) -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_SECONDS:
            print(f"{title}: {done:,} of {total:,}", flush=True)
            last = time.monotonic()

    return say


def import_quietly(name: str) -> ModuleType:
    """Imports a module, and TensorFlow with it, without TensorFlow's start-up notes.

    Its libraries print notes on the hardware to the standard error before any log level
    is read, so they are caught at the file descriptor. If the import fails, they are
    shown after all. Later notes are held back by `TF_CPP_MIN_LOG_LEVEL`, unless that is
    set already.

    In this process, Keras then does without its wrappers for scikit-learn, its plots
    and what it has of SciPy.

    Args:
        name: Full name of the module.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    is_first = "tensorflow" not in sys.modules
    if is_first:
        use_memory_pool()
    with collector_paused():
        with _held_back_standard_error(), _absent(_UNUSED_BY_COMMANDS):
            importlib.import_module("tensorflow").config.list_physical_devices()
            for needed in ("keras", "tensorflow_probability"):
                importlib.import_module(needed)
        module = importlib.import_module(name)
    if is_first:
        # What TensorFlow is made of stays: the collector need not look at it again.
        gc.freeze()
    return module


@contextlib.contextmanager
def _absent(names: Sequence[str]) -> Iterator[None]:
    """Within it, packages that nobody has imported yet are as if not installed."""
    missing = [name for name in names if name not in sys.modules]
    for name in missing:
        # What Python's own documentation has for it; its type says otherwise.
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        for name in missing:
            sys.modules.pop(name, None)


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
