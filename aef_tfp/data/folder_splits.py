"""Folders that are named as the splits: train, test and the like."""

import dataclasses
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from aef_tfp.data.finding import FoundFiles, find_files
from aef_tfp.data.image_files import EXTENSIONS
from aef_tfp.data.splits import SPLIT_WORDS, SPLITS

__all__ = ["FolderSplits", "find_splits"]

# As train_images, testset, val2017.
_NAME = re.compile(
    rf"({'|'.join(SPLIT_WORDS)})(?:[ _-]?(?:images?|imgs?|data|set|\d{{4}}))?"
)

# The words of a name, also in trainA, and its numbers.
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+(?:\d{4}(?!\d))?")
_NUMBER = re.compile(r"\d+")


@dataclasses.dataclass(frozen=True)
class FolderSplits:
    """The image files of a folder, by their splits.

    Args:
        images: Paths relative to the folder; those of all images as `train`, if no
            folders are splits. In the order of `SPLITS`.
        titles: What messages call the folders of these splits.
        found: All files.
        by: What gives the splits, for a note; "" if there are none.
        note: What to say of folders that could have been splits.
    """

    images: dict[str, list[str]]
    titles: dict[str, str]
    found: FoundFiles
    by: str = ""
    note: str | None = None


def find_splits(folder: Path, whole: bool = False) -> FolderSplits:
    """Finds the images of a folder, and which of them are for what.

    Folders that are named by `SPLIT_WORDS`, also as `train_images` or `val2017`, are
    the splits if one of them is for training and another one is not, at the top or in
    the one folder that holds all images.

    Args:
        folder: The folder.
        whole: Whether all images are for one purpose, whatever their folders' names.

    Raises:
        FileNotFoundError: If there are no images.
        ValueError: If it is not clear what images are for.
    """
    found = find_files(folder)
    if not found.images:
        if "" in found.unreadable:
            raise FileNotFoundError(
                f"'{folder}' cannot be read ({found.unreadable['']}): allow it"
            )
        left_out = found.left_out()
        but = f", but {left_out}" if left_out else ""
        raise FileNotFoundError(
            f"there are no images in '{folder}'{but}:"
            f" pass a folder with files that end in {', '.join(EXTENSIONS)}"
        )
    titles = {"train": f"'{folder}'"}
    if whole:
        return FolderSplits({"train": found.images}, titles, found)
    top, named = _named_folders(folder, found.images)
    if "train" in named and len(named) > 1:
        return _given(folder, named)
    others = [
        split
        for split, name in named.items()
        if split != "train" and found.within(name).images
    ]
    beside = _beside(found.images, list(named.values()))
    note = None
    if others:
        one = named[others[0]]
        if beside or len(others) > 1:
            raise ValueError(
                f"'{folder}' has a folder {one!r} but none that is named 'train', so"
                " it is not clear what is for training: put that into a folder"
                " 'train', or rename the other"
            )
    elif "train" in named and beside and found.within(named["train"]).images:
        note = (
            f"folder {named['train']!r} is taken as any other, since there is none"
            " named as the validation or test images"
        )
    else:
        note = _deeper(found.images, top) or _similar(found.images, top)
    return FolderSplits({"train": found.images}, titles, found, note=note)


def _given(folder: Path, named: dict[str, str]) -> FolderSplits:
    """The splits that folders give.

    What is in several of them is for test, or else for validation: a model must not be
    judged by what it was trained on.
    """
    order = [named[split] for split in reversed(SPLITS) if split in named]
    found = find_files(folder, order)
    beside = _beside(found.images, list(named.values()))
    if beside:
        noun = "image" if len(beside) == 1 else "images"
        raise ValueError(
            f"'{folder}' has {len(beside):,} {noun} beside its folders"
            f" {_listed(named.values())}, such as {beside[0]!r}, and it is not clear"
            " what for: move them into one of these, or elsewhere"
        )
    images, titles = {}, {}
    for split in SPLITS:
        if split not in named:
            continue
        name = named[split]
        titles[split] = f"folder {name!r} of '{folder}'"
        inside = found.within(name)
        images[split] = inside.images
        if not inside.images:
            others = " that are not in another split, too" if inside.again else ""
            left_out = inside.left_out()
            but = f", but {left_out}" if left_out else ""
            if name in inside.unreadable:
                but = f" ({inside.unreadable[name]})"
            raise ValueError(
                f"{titles[split]} holds no images{others}{but}: add some, or remove it"
            )
    given = f"by the folders {_listed(named[split] for split in images)}"
    return FolderSplits(images, titles, found, given)


def _named_folders(folder: Path, images: Sequence[str]) -> tuple[str, dict[str, str]]:
    """The folder that holds all images, and the folders in it that are named as splits.

    Raises:
        ValueError: If two of these are named as the same one.
    """
    top = ""
    while True:
        named: dict[str, str] = {}
        for name in sorted(os.listdir(folder / top)):
            split = _split_of(name)
            path = folder / top / name
            # A link to nothing may have been a folder.
            lost = path.is_symlink() and not path.exists()
            if split is None or not (path.is_dir() or lost):
                continue
            inside = f"{top}{name}/"
            if name.lower() not in SPLIT_WORDS and not any(
                image.startswith(inside) for image in images
            ):
                # As test_data, of answers.
                continue
            if split in named:
                raise ValueError(
                    f"'{folder}' has the folders {named[split]!r} and {top + name!r},"
                    f" both named as the {split} images: make them one, or rename one"
                )
            named[split] = top + name
        first = {name[len(top) :].split("/", 1)[0] for name in images}
        inner = f"{top}{min(first)}/"
        if len(named) > 1 or len(first) > 1 or not images[0].startswith(inner):
            return top, named
        top = inner


def _beside(images: Sequence[str], folders: Sequence[str]) -> list[str]:
    inside = tuple(f"{folder}/" for folder in folders)
    return [name for name in images if not name.startswith(inside)]


def _deeper(images: Sequence[str], top: str) -> str | None:
    """Says that folders which are named as splits, but deeper down, are none."""
    examples: dict[str, str] = {}
    for name in images:
        for parent in PurePosixPath(name[len(top) :]).parents:
            split = _split_of(parent.name)
            if split is not None:
                examples.setdefault(split, top + str(parent))
    if "train" not in examples or len(examples) == 1:
        return None
    return (
        f"folders such as {_listed(examples.values())} are no splits, since they are"
        " not at the top: their images are drawn together"
    )


def _similar(images: Sequence[str], top: str) -> str | None:
    """Says that folders or files with words of splits in their names are none.

    They are alike but for that word: folders as far as it, since much may follow, as in
    train_cats and test_dogs; files, of which there are many, in all but numbers.
    """
    folders: dict[str, dict[str, str]] = {}
    files: dict[tuple[str, str], dict[str, str]] = {}
    seen: set[str] = set()
    for name in images:
        *parts, file = name[len(top) :].split("/")
        for depth, part in enumerate(parts, 1):
            if part in seen:
                continue
            seen.add(part)
            for split, before, _ in _readings(part):
                path = top + "/".join(parts[:depth])
                folders.setdefault(before, {}).setdefault(split, path)
        for split, before, after in _readings(file.rsplit(".", 1)[0]):
            files.setdefault((before, after), {}).setdefault(split, name)
    for kind, found, why in (
        ("folders", folders, "they are not named"),
        ("files", files, "those are folders named"),
    ):
        for examples in found.values():
            if "train" in examples and len(examples) > 1:
                return (
                    f"{kind} such as {_listed(examples.values())} are no splits, since"
                    f" {why} 'train', 'validation' or 'test': their images are drawn"
                    " together"
                )
    return None


def _readings(name: str) -> Iterator[tuple[str, str, str]]:
    """For each word of a split in a name: the split, and what is around the word."""
    for word in _WORD.finditer(name):
        split = _split_of(word[0])
        if split is not None:
            around = name[: word.start()], name[word.end() :]
            before, after = (_NUMBER.sub("0", part.lower()) for part in around)
            yield split, before, after


def _split_of(name: str) -> str | None:
    named = _NAME.fullmatch(name.lower())
    return SPLIT_WORDS[named[1]] if named else None


def _listed(names: Iterable[str]) -> str:
    *others, last = map(repr, names)
    return f"{', '.join(others)} and {last}" if others else last
