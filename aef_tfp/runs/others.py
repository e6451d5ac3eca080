"""Images that an evaluation reads beside those of the run."""

import difflib
import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from aef_tfp.data import Splits, load_splits
from aef_tfp.data.levels import AboveLevels
from aef_tfp.data.loading import load_whole
from aef_tfp.data.registry import DATASETS
from aef_tfp.runs.config import RunSettings

__all__ = ["Others", "load_anomalies", "load_labelled"]


class Others(NamedTuple):
    """Images of another kind: what they are, in words, and what to know of them."""

    what: str
    images: np.ndarray
    notes: list[str]


def load_anomalies(
    name: str,
    run: RunSettings,
    splits: Splits,
    *,
    num_images: int | None = None,
    data_dir: Path | None = None,
    download: bool = False,
) -> Others:
    """Loads images that are like a run's in form, and are none of its kind.

    Args:
        name: A data set by its name, of which the test images are taken; or a folder of
            images, or a NumPy file, of which all are, read as the run's own are, in an
            order that is the same for all runs.
        run: The run.
        splits: The run's images.
        num_images: How many of them, the first; None takes all.
        data_dir: Where the run's images are: data sets of TFDS are looked for there,
            too, unless the run's own images are something else.
        download: Whether TFDS may download the data set.

    Raises:
        FileNotFoundError: If there are no such images.
        ValueError: If they have another shape or other levels than the run's, are fewer
            than 2, or are the run's own.
    """
    if _is_of_tfds(name):
        found = _load(name, splits, data_dir, download)
        what, images = f"test images of {name}", found.test.images[:num_images]
    else:
        path = Path(name)
        if name in DATASETS or not name or not path.exists():
            raise _not_found("anomalies", name, ", or a folder of images or .npz file")
        found = _load_whole(path, run, splits)
        what = f"images of {path.resolve().name}"
        images = _first_of([part.images for part in found.parts().values()], num_images)
    _check_form("anomalies", name, found, splits)
    if len(images) < 2:
        raise ValueError(
            f"anomalies must be at least 2 images, got {len(images)} in {name!r}; add "
            "more."
        )
    # Into what splits they would be drawn does not matter here.
    notes = [note for note in found.notes if not note.startswith("splits ")]
    number = _count_own(images, splits)
    if number == len(images):
        raise ValueError(
            f"anomalies must be other images than the run's, got {name!r}, all of "
            "which are among them; name others."
        )
    if number:
        notes.append(
            f"{number:,} of {len(images):,} are images of the run itself, which nothing"
            " tells from those: leave them out"
        )
    return Others(what, images, notes)


def _load_whole(path: Path, run: RunSettings, splits: Splits) -> Splits:
    """Loads a folder or a NumPy file as a run's own images are loaded."""
    levels = splits.info.num_levels
    size, _, channels = splits.info.image_shape
    own: dict[str, Any] = {}
    is_file = path.is_file()
    if is_file and path.suffix.lower() != ".npz":
        raise ValueError(
            "anomalies must be a data set of TFDS, a folder of images or an .npz file, "
            f"got the file '{path}'; name the folder that it is in."
        )
    if not is_file:
        own = {
            "image_size": size,
            "channels": channels,
            # As in a run that has begun.
            "bit_depth": run.bit_depth or 16,
            "skip_unreadable": run.skip_unreadable,
        }
    kind = "npz" if is_file else "folder"
    try:
        # In an order that is no run's own: runs of other seeds are shown the same first
        # ones, with the same noise, and their areas stand in one row.
        return load_whole(kind, path, num_levels=levels, **own)
    except AboveLevels as error:
        # An evaluation is not asked for levels: they are the run's.
        where = f"'{path}'" if is_file else error.where
        raise ValueError(
            f"anomalies must have the {levels} levels of the run, 0 to {levels - 1}, "
            f"got a pixel of value {error.value} in {where}; scale the pixels, or name "
            "other images."
        ) from None


def _first_of(parts: list[np.ndarray], num_images: int | None) -> np.ndarray:
    """The first images of several arrays; all may be more than the memory holds."""
    kept: list[np.ndarray] = []
    for part in parts:
        left = None if num_images is None else num_images - sum(map(len, kept))
        kept.append(part[:left])
    return np.concatenate(kept)


def _count_own(images: np.ndarray, splits: Splits) -> int:
    """How many of the images are among the run's."""
    digests = [_digest(image) for image in images]
    wanted = set(digests)
    # Only those that are found are kept: a run may have millions of images.
    seen = {
        digest
        for part in splits.parts().values()
        for digest in map(_digest, part.images)
        if digest in wanted
    }
    return sum(digest in seen for digest in digests)


def _digest(image: np.ndarray) -> bytes:
    return hashlib.blake2b(image.tobytes(), digest_size=16).digest()


def load_labelled(
    name: str, splits: Splits, *, data_dir: Path | None = None, download: bool = False
) -> Splits:
    """Loads a data set with labels whose images are like a run's in form.

    Args:
        name: A data set of TFDS.
        splits: The run's images.
        data_dir: As in `load_anomalies`.
        download: Whether TFDS may download the data set.

    Raises:
        FileNotFoundError: If there is no such data set.
        ValueError: If it has no labels, or its images have another form.
    """
    if not _is_of_tfds(name):
        raise _not_found("classifier_dataset", name)
    found = _load(name, splits, data_dir, download)
    _check_form("classifier_dataset", name, found, splits)
    return found


def _is_of_tfds(name: str) -> bool:
    return name in DATASETS and DATASETS[name].source == "tfds"


def _load(name: str, splits: Splits, data_dir: Path | None, download: bool) -> Splits:
    # A folder of images is no folder of data sets.
    is_shared = splits.info.source == "tfds"
    return load_splits(name, data_dir if is_shared else None, download)


def _check_form(what: str, name: str, found: Splits, splits: Splits) -> None:
    given, own = (
        "{} x {} x {} with {} levels".format(*s.info.image_shape, s.info.num_levels)
        for s in (found, splits)
    )
    if given != own:
        raise ValueError(
            f"{what} must have images of the run's form, {own}, got {name!r} with "
            f"{given}."
        )


def _not_found(what: str, name: str, others: str = "") -> Exception:
    names = [key for key in DATASETS if _is_of_tfds(key)]
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    if others:
        others += " that is there"
    return FileNotFoundError(
        f"{what} must be a data set of TFDS by its name in the list of presets"
        f"{others}, got {name!r}.{hint}"
    )
