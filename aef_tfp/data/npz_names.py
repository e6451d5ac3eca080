"""What the arrays of a NumPy file are, by the names that people give them."""

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path

from aef_tfp.data.splits import SPLIT_WORDS, SPLITS

__all__ = ["NAMES", "ArrayNames", "split_names"]

NAMES = (
    "images; or train, val, test; or train_images, ...; or x_train, ... (and labels; or"
    " train_labels, ...; or y_train, ...)"
)
"""What names are understood, for messages."""

_KINDS = {
    "images": "images",
    "image": "images",
    "x": "images",
    "labels": "labels",
    "label": "labels",
    "y": "labels",
}


@dataclasses.dataclass(frozen=True)
class ArrayNames:
    """Which array is what.

    Args:
        images: The array of each split; that of all images as `train`, if it is the
            only one. In the order of `SPLITS`.
        labels: The arrays of labels, of these splits.
        others: Arrays of other names.
    """

    images: dict[str, str]
    labels: dict[str, str]
    others: list[str]


def split_names(names: Iterable[str], file: Path, whole: bool = False) -> ArrayNames:
    """Understands names such as those of Keras's and MedMNIST's files.

    Example:
        >>> split_names(["x_train", "y_train", "x_test"], Path("mnist.npz")).images
        {'train': 'x_train', 'test': 'x_test'}

    Args:
        names: The names of all arrays.
        file: What messages call their file.
        whole: Whether all images are for one purpose: `train` is the first split then,
            whatever its name.

    Raises:
        ValueError: If there are no images, or it is not clear which they are.
    """
    names = sorted(names)
    listed = f"'{file}' has the arrays {', '.join(names) or 'none'}"
    found: dict[tuple[str, str], str] = {}
    others = []
    for name in names:
        meaning = _meaning(name)
        if meaning is None:
            others.append(name)
        elif meaning in found:
            split, kind = meaning
            of = f"the {split} {kind}" if split else f"the {kind}"
            raise ValueError(
                f"'{file}' has the arrays {found[meaning]!r} and {name!r}, both named"
                f" as {of}: remove one of them"
            )
        else:
            found[meaning] = name
    if len(names) == 1 and others:
        # As by np.savez(FILE, images).
        found, others = {("", "images"): names[0]}, []
    images = {split: name for (split, kind), name in found.items() if kind == "images"}
    labels = {split: name for (split, kind), name in found.items() if kind == "labels"}
    if "" in images and len(images) > 1:
        raise ValueError(
            f"{listed}: if there are splits, it is not clear what {images['']!r} is"
            " for; remove it, or rename it to train"
        )
    first = next((split for split in SPLITS if split in images), None)
    if whole and first not in (None, "train"):
        images["train"] = images.pop(first)
        if first in labels:
            labels["train"] = labels.pop(first)
    if not images.keys() & {"", "train"}:
        raise ValueError(
            f"{listed}, none of which are images to train on; names are {NAMES}:"
            " write it with np.savez and these names"
        )
    missing = [labels[split] for split in labels if split not in images]
    if missing:
        raise ValueError(
            f"'{file}' has labels {', '.join(missing)} without images; names"
            f" are {NAMES}: rename or remove them"
        )
    if "" in images:
        images = {"train": images[""]}
        labels = {"train": labels[""]} if labels else {}
    images = {split: images[split] for split in SPLITS if split in images}
    return ArrayNames(images, labels, others)


def _meaning(name: str) -> tuple[str, str] | None:
    """Split, or "", and kind of an array by the words of its name, in any order."""
    splits, kinds = [], []
    for word in re.split(r"[_\- ]", name.lower()):
        if word in SPLIT_WORDS:
            splits.append(SPLIT_WORDS[word])
        elif word in _KINDS:
            kinds.append(_KINDS[word])
        else:
            return None
    if len(splits) > 1 or len(kinds) > 1:
        return None
    return "".join(splits), "".join(kinds) or "images"
