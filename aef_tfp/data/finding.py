"""Which files below a folder are images, and what is left out."""

import collections
import dataclasses
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from aef_tfp.data.image_files import EXTENSIONS

__all__ = ["FoundFiles", "find_files", "find_image_files"]

# More kinds than these would hide the message.
_MOST_KINDS = 10

# A longer one is the end of a sentence.
_LONGEST_ENDING = 10

# What a run directory has: the first from its first moment, and one of the others
# before there are pictures in it.
_RUN = "config.json"
_OF_RUN = {"environment.json", "best.keras", "checkpoints"}


@dataclasses.dataclass
class FoundFiles:
    """The files below a folder, by paths relative to it with "/".

    Hidden folders, and hidden files that are no images, are no files of the user's.

    Args:
        images: Files that end as images do, links to nothing among them: sorted.
        others: Other files: sorted.
        hidden: Hidden files that end as images do.
        broken: Other links to nothing, which may have been folders.
        special: Pipes, sockets and devices. Opening one could wait for ever.
        again: Links, or further names, of files and folders that are there already.
        runs: Run directories: their pictures are what models drew.
        unreadable: Folders that cannot be listed, and why.
    """

    images: list[str] = dataclasses.field(default_factory=list)
    others: list[str] = dataclasses.field(default_factory=list)
    hidden: list[str] = dataclasses.field(default_factory=list)
    broken: list[str] = dataclasses.field(default_factory=list)
    special: list[str] = dataclasses.field(default_factory=list)
    again: list[str] = dataclasses.field(default_factory=list)
    runs: list[str] = dataclasses.field(default_factory=list)
    unreadable: dict[str, str] = dataclasses.field(default_factory=dict)

    def within(self, folder: str) -> "FoundFiles":
        """What is in a folder of it, by the same paths."""
        start = f"{folder}/"
        kept = {
            name: [path for path in paths if path == folder or path.startswith(start)]
            for name, paths in vars(self).items()
        }
        unreadable = {path: self.unreadable[path] for path in kept.pop("unreadable")}
        return FoundFiles(**kept, unreadable=unreadable)

    def left_out(self) -> str:
        """What is no image by its name, as in "3 .heic, 1 hidden .png"; or nothing."""
        kinds = collections.Counter(_ending(name) for name in self.others)
        kinds.update(f"hidden {_ending(name)}" for name in self.hidden)
        counts = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
        parts = [f"{number:,} {kind}" for kind, number in counts[:_MOST_KINDS]]
        if len(counts) > _MOST_KINDS:
            rest = sum(number for _, number in counts[_MOST_KINDS:])
            parts.append(f"{rest:,} of {len(counts) - _MOST_KINDS} other kinds")
        if self.broken:
            noun = "link" if len(self.broken) == 1 else "links"
            parts.append(
                f"{len(self.broken):,} {noun} to nothing, such as {self.broken[0]!r}"
            )
        if self.runs:
            noun = "run directory" if len(self.runs) == 1 else "run directories"
            parts.append(f"{len(self.runs):,} {noun}, such as {self.runs[0]!r}")
        if self.special:
            noun = "file" if len(self.special) == 1 else "files"
            parts.append(f"{len(self.special)} special {noun} (pipes and the like)")
        return ", ".join(parts)


def find_image_files(folder: Path) -> tuple[list[str], list[str]]:
    """The image files below a folder, and what else is there; see `find_files`."""
    found = find_files(folder)
    return found.images, sorted([*found.others, *found.broken])


def find_files(folder: Path, first: Sequence[str] = ()) -> FoundFiles:
    """Looks for files below a folder, also where links lead to.

    Every file is found once: under its own name rather than by a link, and else by the
    first of its names. A link to a folder that holds it leads nowhere new. Run
    directories in the folder are not looked into: a run would find its own pictures.

    Args:
        folder: An existing folder.
        first: Names of folders in it that come before all others, so that what is in
            several belongs to the first.

    Returns:
        What there is: the same, in the same order, on every file system.
    """
    search = _Search(folder, first)
    for name in (*first, ""):
        search.take(name)
    found = search.found
    for names in vars(found).values():
        if isinstance(names, list):
            names.sort()
    return found


def _ending(name: str) -> str:
    ending = Path(name).suffix.lower()
    if not ending[1:].isalnum() or len(ending) > _LONGEST_ENDING:
        return "without an ending"
    # The characters of no encoding cannot be printed.
    return ending if ending.isprintable() else ascii(ending)


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS)


def _is_run(names: set[str]) -> bool:
    return _RUN in names and not _OF_RUN.isdisjoint(names)


class _Search:
    """Goes through folders, and remembers which ones and which files it has seen."""

    def __init__(self, folder: Path, first: Sequence[str]):
        self.folder = os.fspath(folder)
        self.found = FoundFiles()
        # What holds a folder is no part of it, whatever links to it.
        parts = [Path(self._real(name)) for name in ("", *first)]
        self._holders = {str(above) for part in parts for above in part.parents}
        self._holders.add(str(parts[0]))
        self._folders: set[str] = set()
        self._files: set[object] = set()
        self._taken: set[str] = set()

    def take(self, name: str) -> None:
        """Takes a folder: first the files that lie in it, then those it links to."""
        self._taken.add(name)
        folders = [name]
        while folders:
            links = [link for one in folders for link in self._take_tree(one)]
            folders = [link for link in sorted(links) if self._is_folder(link)]

    def _path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def _real(self, name: str) -> str:
        return os.path.realpath(self._path(name))

    def _take_tree(self, top: str) -> Iterator[str]:
        """Takes a folder and those in it, and yields the links there."""
        trees = [(top, self._real(top))]
        while trees:
            name, real = trees.pop()
            if real in self._folders:
                self.found.again.append(name)
                continue
            self._folders.add(real)
            try:
                with os.scandir(self._path(name)) as listing:
                    entries = sorted(listing, key=lambda entry: entry.name)
            except OSError as error:
                self.found.unreadable[name] = error.strerror or str(error)
                continue
            # Who names a run directory as the folder means its pictures.
            if name and _is_run({entry.name for entry in entries}):
                self.found.runs.append(name)
                continue
            inner = []
            for entry in entries:
                path = f"{name}/{entry.name}" if name else entry.name
                if path in self._taken:
                    continue
                if entry.name.startswith("."):
                    # macOS keeps what it knows of x.jpg in ._x.jpg.
                    if _is_image(entry.name) and not entry.name.startswith("._"):
                        self.found.hidden.append(path)
                elif entry.is_symlink():
                    yield path
                elif entry.is_dir():
                    inner.append((path, os.path.join(real, entry.name)))
                else:
                    self._take_file(path, os.path.join(real, entry.name))
            trees.extend(reversed(inner))

    def _is_folder(self, link: str) -> bool:
        """Whether a link leads to a folder; a file that it leads to is taken."""
        if not os.path.isdir(self._path(link)):
            self._take_file(link, self._real(link))
            return False
        if self._real(link) in self._holders:
            self.found.again.append(link)
            return False
        return True

    def _take_file(self, name: str, real: str) -> None:
        key: object = real
        try:
            state = os.stat(self._path(name))
        except OSError:
            if not _is_image(name):
                self.found.broken.append(name)
                return
            # Reading it will say what is wrong.
        else:
            if not stat.S_ISREG(state.st_mode):
                self.found.special.append(name)
                return
            if state.st_nlink > 1:
                # A file of several names, of which none is a link to another.
                key = state.st_dev, state.st_ino
        if key in self._files:
            self.found.again.append(name)
            return
        self._files.add(key)
        (self.found.images if _is_image(name) else self.found.others).append(name)
