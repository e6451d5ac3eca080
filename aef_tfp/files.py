"""Files that are whole or not there, whenever the process or the machine stops."""

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import socket
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

__all__ = [
    "CannotWrite",
    "check_name",
    "check_room",
    "flush_to_disk",
    "locked",
    "remove_leftovers",
    "replace_file",
    "replace_text",
    "writing",
]

# What a file system answers that has no locks, e.g. some network ones.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class CannotWrite(OSError):  # noqa: N818 - as RunInterrupted and TrainingFailed
    """A file could not be written; the message says which, why, and what to do."""


def check_name(path: Path) -> None:
    """Refuses a path that is no UTF-8: TensorFlow and Keras write nothing there.

    Raises:
        ValueError: If it is none.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"a path that is written to must be UTF-8, got {os.fsencode(path)!r}: "
            "rename that folder, or choose another one."
        ) from None


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

    The file aside has a name of its own, so that two processes do not write into one.
    What a process that was killed left aside, the next one removes.

    Args:
        path: The file to make or to replace.
        write: Writes the file that it is given the path of; the suffix is the same.
        num_bytes: About how many those will be, if there is to be room beforehand.

    Raises:
        CannotWrite: If there is no room, or writing fails; the old file stays.
    """
    with writing(path):
        # Of a link, the file that it stands for: the link stays one.
        path = path.resolve() if path.is_symlink() else path
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent, f".{path.stem}.writing-*{path.suffix}")
        aside = _name_aside(path)
        check_room(aside, num_bytes)
        with _alive(aside):
            try:
                write(aside)
                flush_to_disk(aside)
                os.replace(aside, path)
            except BaseException:
                aside.unlink(missing_ok=True)
                raise
        flush_to_disk(path.parent)


def remove_leftovers(directory: Path, pattern: str = ".*.writing-*") -> None:
    """Removes what killed processes left aside; what a living one writes, stays."""
    for path in directory.glob(pattern):
        # Whoever writes it holds its lock. Not to be able to tell is to leave it.
        with contextlib.suppress(OSError), path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def _name_aside(path: Path) -> Path:
    return path.with_name(f".{path.stem}.writing-{secrets.token_hex(4)}{path.suffix}")


@contextlib.contextmanager
def _alive(aside: Path) -> Iterator[None]:
    """Makes an empty file, and holds its lock for as long as the process writes it."""
    with aside.open("xb") as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        # Between the two, it could be taken for a leftover; it is then made once more,
        # which nobody who looks for leftovers is quick enough for a second time.
        if aside.exists():
            yield
            return
    with _alive(aside):
        yield


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
    # macOS has no such call.
    allocate = getattr(os, "posix_fallocate", None)
    if allocate is None:
        if shutil.disk_usage(path.parent).free < num_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return
    try:
        with path.open("wb") as file:
            allocate(file.fileno(), 0, num_bytes)
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
def locked(
    directory: Path,
    name: str = ".lock",
    *,
    doing: str = "training in",
    wait_seconds: float = 0.0,
) -> Iterator[None]:
    """Keeps other processes from writing into a run directory at the same time.

    The lock goes with the process, however that ends. Where the file system has no
    locks, a warning says so, and there is none.

    Args:
        directory: The directory, which exists.
        name: The lock's file in it; another one is another lock.
        doing: What the holder does, in the words of the error.
        wait_seconds: How long to wait for another holder.

    Raises:
        BlockingIOError: If another process holds it; the message says which.
        CannotWrite: If the directory cannot be written.
    """
    path = directory / name
    deadline = time.monotonic() + wait_seconds
    with contextlib.ExitStack() as stack:
        file = _take(path, stack)
        while file is None:
            if time.monotonic() >= deadline:
                raise BlockingIOError(
                    f"Another process is {doing} {directory}{_holder(path)}; wait for "
                    "it, or stop it."
                )
            time.sleep(0.05)
            file = _take(path, stack)
        # Only for the message of whoever comes next: no room for it is no harm.
        with contextlib.suppress(OSError):
            file.truncate(0)
            since = time.strftime("%Y-%m-%d %H:%M:%S")
            file.write(
                f"process {os.getpid()} on {socket.gethostname()}, since {since}"
            )
            file.flush()
        yield


def _take(path: Path, stack: contextlib.ExitStack) -> IO[str] | None:
    """Opens and locks a file until the stack ends; None if another process has it."""
    with writing(path):
        file = path.open("a+", errors="replace")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            file.close()
            if isinstance(error, (BlockingIOError, PermissionError)):
                return None
            raise
        warnings.warn(
            f"{path.parent} is on a file system without locks ({error.strerror}): see "
            "to it that no other process writes there.",
            stacklevel=2,
        )
    try:
        is_there = os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        is_there = False
    if not is_there:
        # The former holder removed it in the meantime: a lock on it keeps nobody out.
        file.close()
        return None
    stack.enter_context(file)
    # Removed first, closed and with it unlocked next.
    stack.callback(path.unlink, missing_ok=True)
    return file


def _holder(path: Path) -> str:
    """Who holds a lock, in brackets; nothing if that cannot be told."""
    # It writes its name right after it has got the lock.
    time.sleep(0.1)
    try:
        text = path.read_text(errors="replace").strip()
    except OSError:
        return ""
    return f" ({text})" if text else ""
