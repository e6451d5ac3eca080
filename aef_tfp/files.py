"""Files that are whole or not there, whenever the process or the machine stops."""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = [
    "CannotWrite",
    "check_room",
    "flush_to_disk",
    "locked",
    "replace_file",
    "replace_text",
    "writing",
]


class CannotWrite(OSError):  # noqa: N818 - as RunInterrupted and TrainingFailed
    """A file could not be written; the message says which, why, and what to do."""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Says which file it was that could not be written.

    Raises:
        CannotWrite: In place of another OSError.
    """
    try:
        yield
    except CannotWrite:
        raise
    except OSError as error:
        # Libraries give a reason of several lines, or one without a name.
        reason = error.strerror or str(error).partition("\n")[0]
        raise CannotWrite(
            f"{path} could not be written: {reason}; make room there, or see to it "
            "that the directory can be written."
        ) from error


def replace_file(
    path: Path, write: Callable[[Path], object], num_bytes: int = 0
) -> None:
    """Writes a file aside and renames it, so that its name has the old or the new one.

    Args:
        path: The file to make or to replace.
        write: Writes the file that it is given the path of; the suffix is the same.
        num_bytes: About how many those will be, if there is to be room beforehand.

    Raises:
        CannotWrite: If there is no room, or writing fails; the old file stays.
    """
    aside = path.with_name(f".{path.stem}.writing{path.suffix}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            check_room(aside, num_bytes)
            write(aside)
            flush_to_disk(aside)
            os.replace(aside, path)
        except Exception:
            aside.unlink(missing_ok=True)
            raise
        flush_to_disk(path.parent)


def replace_text(path: Path, text: str) -> None:
    """Writes a text file; see `replace_file`."""
    replace_file(path, lambda aside: aside.write_text(text))


def check_room(path: Path, num_bytes: int) -> None:
    """Sees to it that a new file of a size can be written.

    A library that runs out of room in the middle may take the process with it: HDF5
    crashes when it later closes its file.

    Args:
        path: The file, which does not exist afterwards.
        num_bytes: Its size.

    Raises:
        OSError: If there is no room for it.
    """
    if not num_bytes:
        return
    try:
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, num_bytes)
    finally:
        path.unlink(missing_ok=True)


def flush_to_disk(path: Path) -> None:
    """Waits until a file, or the list of a directory's files, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keeps other processes from writing into a run directory at the same time.

    The lock goes with the process, however that ends.

    Raises:
        BlockingIOError: If another process holds it.
    """
    with (directory / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(
                f"Another process is training in {directory}; wait for it, or stop it."
            ) from None
        yield
