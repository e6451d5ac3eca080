"""Decoded images: in memory if they fit, else in a memory-mapped file."""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

__all__ = [
    "Decoded",
    "Facts",
    "decode_once",
    "default_cache_dir",
    "default_limit",
    "file_state",
]

# Part of every key: another number when the same files decode to other pixels.
_FORMAT = 2

# How the names of folders begin that are no entries yet.
_UNFINISHED = ".unfinished-"

Facts = dict[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Decoded:
    """Images that were decoded once.

    Args:
        images: `[n, H, W, C]`, uint8; an `np.memmap` that cannot be written if they
            are in the cache.
        labels: `[n]`, int64, or None.
        facts: What the decoding found out.
        note: Where the images are, if not in memory.
    """

    images: np.ndarray
    labels: np.ndarray | None
    facts: Facts
    note: str | None


def default_limit() -> int:
    """A quarter of the memory that is free now, in bytes.

    A quarter, since a pipeline over images in memory holds a copy of them.
    """
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [physical]
    with contextlib.suppress(OSError, ValueError, IndexError):
        # Linux counts as available what it can take back from its file cache.
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                limits.append(1024 * int(line.split()[1]))
    with contextlib.suppress(OSError, ValueError):
        # The limit of a container; the word "max" if there is none.
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(limits) // 4


def default_cache_dir() -> Path:
    """`aef_tfp` in `XDG_CACHE_HOME`, which is `~/.cache` by default.

    Raises:
        OSError: If that is not set, and there is no home directory.
    """
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return Path(base).expanduser() / "aef_tfp"
    except RuntimeError:
        raise OSError(
            f"there is no home directory for the cache in '{base}': set XDG_CACHE_HOME"
            " to a folder (cache_dir=...)"
        ) from None


def file_state(path: str | os.PathLike[str]) -> tuple[int, int]:
    """What tells that a file was changed, for a key: its size and time."""
    try:
        state = os.stat(path)
    except OSError:
        # A link to nothing: unreadable, like other files.
        return -1, -1
    return state.st_size, state.st_mtime_ns


def decode_once(
    name: str,
    shape: tuple[int, int, int, int],
    fill: Callable[[np.ndarray], tuple[int, np.ndarray | None, Facts]],
    *,
    key: Any,
    memory_limit: int | None,
    cache_dir: str | os.PathLike[str] | None,
) -> Decoded:
    """Decodes images into memory, or into a file that later runs map into memory.

    Args:
        name: What the images are called, for the file and for messages.
        shape: `(n, H, W, C)` of the array to fill.
        fill: Writes the images into an array of that shape. It returns how many there
            are (the first ones are kept), their labels or None, and facts for JSON.
        key: Everything that decides the pixels, their order and the facts, as what
            JSON can express.
        memory_limit: The most bytes the array may take in memory; None is
            `default_limit()`.
        cache_dir: The folder of the files; None is `default_cache_dir()`.

    Raises:
        OSError: If the file cannot be written.
    """
    num_bytes = int(np.prod(shape, dtype=np.int64))
    limit = default_limit() if memory_limit is None else memory_limit
    if num_bytes <= limit:
        images = np.empty(shape, np.uint8)
        count, labels, facts = fill(images)
        return Decoded(images[:count], labels, facts, None)
    text = json.dumps([_FORMAT, name, shape, key], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:24]
    folder = default_cache_dir() if cache_dir is None else Path(cache_dir).expanduser()
    entry = folder / f"{name}-{digest}"
    made = not entry.is_dir()
    if made:
        with _becomes(entry) as unfinished:
            free = shutil.disk_usage(unfinished).free
            if free < num_bytes:
                # Writing to a memory map would end the process without a word.
                raise OSError(
                    f"the cache of decoded images needs {_size(num_bytes)} in"
                    f" '{folder}', which has {_size(free)} left: set XDG_CACHE_HOME to"
                    " a folder with more room (cache_dir=...), or make room"
                )
            images = np.lib.format.open_memmap(
                unfinished / "images.npy", mode="w+", dtype=np.uint8, shape=shape
            )
            count, labels, facts = fill(images)
            images.flush()
            if labels is not None:
                np.save(unfinished / "labels.npy", labels)
            text = json.dumps({"count": count, "facts": facts})
            (unfinished / "facts.json").write_text(text)
    saved = json.loads((entry / "facts.json").read_text())
    images = np.load(entry / "images.npy", mmap_mode="r", allow_pickle=False)
    path = entry / "labels.npy"
    labels = np.load(path, allow_pickle=False) if path.exists() else None
    note = (
        f"{name}: {_size(num_bytes)} of decoded images exceed the memory limit of"
        f" {_size(limit)}: {'cached in' if made else 'read from the cache'} {entry},"
        " which may be deleted"
    )
    return Decoded(images[: saved["count"]], labels, saved["facts"], note)


@contextlib.contextmanager
def _becomes(entry: Path) -> Iterator[Path]:
    """A new folder that gets the name `entry` if all goes well, else is deleted.

    That of a process that was killed is deleted by the next one.
    """
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(entry.parent)
        unfinished, lock = _new_folder(entry.parent)
    except OSError as error:
        raise OSError(
            f"cannot write the cache of decoded images to '{entry.parent}' ({error}):"
            " set XDG_CACHE_HOME to a folder that can be written (cache_dir=...)"
        ) from error
    try:
        yield unfinished
        try:
            unfinished.rename(entry)
        except OSError:
            # Another process, with the same images, was faster.
            if not entry.is_dir():
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        os.close(lock)


def _new_folder(parent: Path) -> tuple[Path, int]:
    """A folder, and a descriptor that holds its lock until it is closed."""
    while True:
        path = parent / f"{_UNFINISHED}{secrets.token_hex(8)}"
        path.mkdir()
        # Until it is locked, it could be taken for a leftover: then for another one.
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(path, os.O_RDONLY)
            # Some file systems have no locks: there, nothing is ever a leftover.
            with contextlib.suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX)
            if path.exists():
                return path, lock
            os.close(lock)


def _remove_leftovers(parent: Path) -> None:
    for path in parent.glob(f"{_UNFINISHED}*"):
        # Whoever writes it holds its lock.
        with contextlib.suppress(OSError):
            lock = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(lock)


def _size(num_bytes: int) -> str:
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.1f} {unit}"
    return f"{num_bytes} bytes"
