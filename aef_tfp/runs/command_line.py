"""Command lines whose every word is read, or refused in one line."""

import atexit
import contextlib
import dataclasses
import gc
import io
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_type_hints

import tyro

from aef_tfp.saved import place_of_images

__all__ = [
    "BadCommandLine",
    "Terminated",
    "ending_with_output",
    "named_options",
    "parse",
    "place_as_before",
    "run_command",
]

_HELP = ("-h", "--help")

# The beginning of a path in the home directory, as an argument or an option's value.
_HOME = re.compile(r"^(?P<option>--[\w-]+=)?~(?=/|$)")


class BadCommandLine(ValueError):  # noqa: N818 - as CannotWrite and DamagedFile
    """A command line that is no command; the exit status is that of other parsers."""

    exit_status = 2


def parse(
    kind: Any, argv: Sequence[str], description: str, default: Any = None, **options
) -> Any:
    """Parses a command line into a dataclass, as `tyro.cli` does.

    Beyond what tyro refuses: empty values, and values of flags (`--download=no`), which
    would be taken for the next positional argument. Of an option that is given twice
    the last one holds, as everywhere. `~` is the home directory behind a `=`, too,
    where no shell expands it.

    Args:
        kind: The dataclass.
        argv: The arguments.
        description: For `--help`, each paragraph a line: tyro breaks none.
        default: What holds where nothing is given; the dataclass's own if None.
        **options: Others of `tyro.cli`.

    Raises:
        BadCommandLine: If it is not to be parsed; the message is one line.
    """
    argv = [_HOME.sub(_with_home, argument) for argument in argv]
    _check(argv, _types(kind))
    if default is not None:
        options["default"] = default
    said = io.StringIO()
    with contextlib.redirect_stderr(said), _lines_unbroken(argv):
        try:
            return tyro.cli(kind, args=argv, description=description, **options)
        except SystemExit as end:
            if not end.code:
                raise
    raise BadCommandLine(_one_line(said.getvalue()))


def _with_home(match: re.Match[str]) -> str:
    return (match["option"] or "") + os.path.expanduser("~")


def place_as_before(run_dir: Path, data_dir: Path | None) -> Path | None:
    """Returns where the images of a run are; says so where nobody names the place.

    Args:
        run_dir: The run.
        data_dir: What is named, which holds.
    """
    place = place_of_images(run_dir, data_dir)
    if place != data_dir:
        print(f"images: {place}, as before (--data-dir names another place)")
    return place


def named_options(argv: Sequence[str]) -> tuple[str, ...]:
    """Returns the options that a command line names, as names of fields."""
    return tuple(dict.fromkeys(name for name, _, _ in _options(argv)))


def _options(argv: Sequence[str]) -> Iterator[tuple[str, str, str | None]]:
    """Yields field, option as it is written, and the value after its `=`."""
    for argument in argv:
        if argument.startswith("--"):
            option, equals, value = argument.partition("=")
            name = option.removeprefix("--").replace("-", "_")
            yield name.removeprefix("no_"), option, value if equals else None


def _types(kind: Any) -> dict[str, Any]:
    """The types of all options by their names, those of parts included."""
    types: dict[str, Any] = {}
    for name, hint in get_type_hints(kind).items():
        types |= _types(hint) if dataclasses.is_dataclass(hint) else {name: hint}
    return types


def _check(argv: Sequence[str], types: dict[str, Any]) -> None:
    if "--" in argv:
        raise BadCommandLine("-- separates nothing here; leave it out.")
    for name, option, value in _options(argv):
        if value is not None and types.get(name) is bool:
            raise BadCommandLine(
                f"{option} takes no value, got {value!r}; give it alone, or leave it "
                "out."
            )
        if value is not None and not value.strip():
            raise BadCommandLine(f"{option} has no value; give one, or leave it out.")
    for position, argument in enumerate(argv):
        if not argument.strip():
            former = argv[position - 1] if position else ""
            where = f" after {former}" if former.startswith("--") else ""
            raise BadCommandLine(
                f"got an empty argument{where}; give a value, or leave it out."
            )


@contextlib.contextmanager
def _lines_unbroken(argv: Sequence[str]) -> Iterator[None]:
    """Has tyro write an error, but not its help, without breaking lines."""
    if any(argument in _HELP for argument in argv):
        yield
        return
    former = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "10000"
    try:
        yield
    finally:
        if former is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = former


def _one_line(text: str) -> str:
    """What tyro says in a box, without the box and its reference to the help."""
    lines = [line.strip(" │╭╮╰╯─\t") for line in text.splitlines()]
    left_out = r"-*|For full helptext.*"
    lines = [line for line in lines if not re.fullmatch(left_out, line)]
    if not lines:
        return "the arguments cannot be understood; --help shows what they are."
    title, *rest = lines
    message = rest[0] if rest else title
    if message.endswith(":"):
        # What is missing follows, with its help.
        names = (re.fullmatch(r"([A-Z]+|--\S+)( .*)?", line) for line in rest[1:])
        message = f"missing {', '.join(name[1] for name in names if name)}"
    message = message[:1].lower() + message[1:]
    message = message.replace("error parsing", "cannot take what follows", 1)
    option = next((line for line in rest[1:] if line.startswith("--")), "")
    hint = f", did you mean {option}?" if "Perhaps you meant:" in rest else ";"
    return f"{message.rstrip('.')}{hint} --help shows all options."


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
    _open_descriptors()
    _open_streams()
    if argv is None:
        # The process ends with the command. Python would first look through all of
        # TensorFlow's objects once more for cycles, which takes more than a second.
        atexit.register(gc.freeze)
    try:
        output = _Output(sys.stdout, _raise_of_output)
        with _terminated_as_exception(), contextlib.redirect_stdout(output):
            status = run(list(sys.argv[1:] if argv is None else argv))
            sys.stdout.flush()
        return status
    except BrokenPipeError:
        # Whoever reads the output (`| head`) has had enough.
        return 1
    except errors as error:
        print(f"error: {error}", file=sys.stderr)
        return getattr(error, "exit_status", 1)
    except KeyboardInterrupt as interruption:
        print(interrupted, file=sys.stderr)
        return 128 + getattr(interruption, "signal_number", signal.SIGINT)


def _open_descriptors() -> None:
    """Opens what is closed of 0 to 2, which the next file would get otherwise."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


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
def ending_with_output() -> Iterator[None]:
    """Within it, to be cut off from the standard output is to be asked to end.

    A write that fails (`| head`, a full disk) would end a training where it happens;
    asked by SIGTERM, it saves first.
    """
    with contextlib.redirect_stdout(_Output(sys.stdout, _end_of_output)):
        yield


def _raise_of_output(error: OSError) -> None:
    if isinstance(error, BrokenPipeError):
        raise error
    raise OSError(_unwritable(error)) from None


def _end_of_output(error: OSError) -> None:
    # The standard error may be the same pipe.
    with contextlib.suppress(OSError):
        print(_unwritable(error), file=sys.stderr, flush=True)
    signal.raise_signal(signal.SIGTERM)


def _unwritable(error: OSError) -> str:
    return f"the standard output cannot be written: {error.strerror}"


class _Output:
    """The standard output, and what is done when it cannot be written any more.

    Args:
        stream: What it was so far.
        lost: Called with the first error; what is written later goes nowhere.
    """

    def __init__(self, stream: Any, lost: Callable[[OSError], None]):
        # A command within a command decides itself.
        self._stream: Any = stream._stream if isinstance(stream, _Output) else stream
        self._lost = lost
        self._is_gone = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, act: Callable[[], object]) -> None:
        if self._is_gone:
            return
        try:
            act()
        except OSError as error:
            self._is_gone = True
            # Of what is left in its buffer, Python would complain at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            self._lost(error)


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
