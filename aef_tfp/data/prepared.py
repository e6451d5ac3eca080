"""Data sets of TFDS: found, downloaded or prepared, and read into memory."""

import contextlib
import io
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from aef_tfp.data.registry import DatasetInfo
from aef_tfp.data.splits import LEAST_IMAGES, Split, Splits
from aef_tfp.data.storage import Facts, decode_once, file_state

__all__ = ["load_prepared"]

# Images that are copied at once.
_CHUNK = 256

# Files that are looked at to see whose they are.
_MOST_FILES = 10_000


def load_prepared(
    info: DatasetInfo,
    data_dir: str | os.PathLike[str] | None,
    *,
    download: bool,
    memory_limit: int | None,
    cache_dir: str | os.PathLike[str] | None,
) -> Splits:
    """Reads a data set of TFDS; see `load_splits`."""
    check_folder(info, data_dir)
    builder = _prepared_builder(info, data_dir, download)
    names = {
        "train": info.train_split,
        "validation": info.validation_split,
        "test": info.test_split,
    }
    if names["validation"] is None:
        percent = round(100 * (1 - info.validation_fraction))
        names["train"] = f"{info.train_split}[:{percent}%]"
        names["validation"] = f"{info.train_split}[{percent}%:]"
    _check_sizes(builder, info, names)
    notes = _partition_notes(builder)
    splits = {}
    for split, name in names.items():
        splits[split], note = _read(builder, info, str(name), memory_limit, cache_dir)
        notes += [note] if note else []
    return Splits(**splits, info=info, notes=tuple(notes))


def _builder(info: DatasetInfo, data_dir: str | os.PathLike[str] | None) -> Any:
    import tensorflow_datasets as tfds

    # Importing a module registers its builder.
    if info.embedded:
        from aef_tfp.data import digits  # noqa: F401
    if info.tfds_name.startswith("celeba_hq/"):
        from aef_tfp.data import celeba_hq  # noqa: F401

    directory = _folder(data_dir)
    try:
        # TFDS would otherwise look for a copy in Google's cloud first.
        return tfds.builder(info.tfds_name, data_dir=directory, try_gcs=False)
    except tfds.core.registered.DatasetNotFoundError:
        raise
    # What is raised of files that are not as TFDS wrote them is of many kinds: errors
    # of Protocol Buffers, RuntimeError, AssertionError, KeyError, ...
    except Exception as error:
        root = Path(directory or _default_folder()) / info.tfds_name
        found = sorted(root.glob("*/*.json"))
        if not found:
            raise
        raise _damaged(info, found[-1].parent, error) from error


def _damaged(info: DatasetInfo, folder: Any, error: Exception | str) -> ValueError:
    """What to say of files that cannot be read."""
    # TensorFlow wraps the reason in the names of its operations, TFDS in arguments.
    wrapping = (
        r"\{\{.*?\}\}",
        r"\[Op:.*",
        "Error in user-defined .*?MapV2:",
        r"Failed to construct .*?\}\":",
    )
    lines = re.sub("|".join(wrapping), "", str(error)).strip().splitlines()
    reason = " ".join(lines[0].split()).rstrip(".") if lines else type(error).__name__
    return ValueError(
        f"data set {info.name!r} in '{folder}' is damaged ({reason}): put it there"
        " again"
    )


def _folder(data_dir: str | os.PathLike[str] | None) -> str | None:
    if data_dir is None:
        return None
    # TFDS would take an empty name for None.
    return os.path.expanduser(os.fspath(data_dir)) or os.curdir


def check_folder(info: DatasetInfo, data_dir: str | os.PathLike[str] | None) -> None:
    """Refuses a directory where a data set cannot or should not be; writes nothing.

    Raises:
        FileNotFoundError: If the user names a directory that is none. A name that was
            mistyped would otherwise become an empty directory, or be filled.
        ValueError: If it is none on this machine, or holds images of the user's own: a
            preset was forgotten.
    """
    directory = _folder(data_dir)
    place = directory or os.environ.get("TFDS_DATA_DIR", "")
    # A path has one slash where an address has two.
    if re.match(r"\w\w+:/", place) and not os.path.isdir(place):
        raise ValueError(
            f"data sets are read from directories of this machine, got {place!r}: copy"
            " what is there, and pass that directory with --data-dir (data_dir=...)"
        )
    if directory is None:
        return
    advice = "pass the directory of your TFDS data sets with --data-dir (data_dir=...)"
    own = _own_images(Path(directory))
    if own is not None:
        kind = "npz" if own.name.lower().endswith(".npz") else "folder"
        found = f"'{directory}' holds images of your own"
        if own == Path(directory):
            found = f"'{directory}' is a file of your own images"
        otherwise = f"{advice}, which may be a new one"
        if info.embedded:
            otherwise = f"leave --data-dir (data_dir=...) out: {info.name!r} needs none"
        raise ValueError(
            f"{found}, but the data set is {info.name!r}: name a preset of your own"
            f" images, such as {kind}-aef-linear-32, or {otherwise}"
        )
    if os.path.isdir(directory):
        return
    found = f"there is no directory '{directory}'"
    if os.path.exists(directory):
        found = f"'{directory}' is a file, not a directory"
    raise FileNotFoundError(
        f"{found}: {advice}, leave it out for TFDS's own, or make it first"
    )


def _own_images(place: Path) -> Path | None:
    """A user's image or NumPy file: the place, in it, or in a folder in it.

    None if there is anything of TFDS's, too, or if most files are others.
    """
    from aef_tfp.data.image_files import EXTENSIONS

    inside = itertools.chain(place.glob("[!.]*"), place.glob("[!.]*/[!.]*"))
    endings = (*EXTENSIONS, ".npz")
    own, others = [], 0
    for path in [place] if place.is_file() else itertools.islice(inside, _MOST_FILES):
        # What TFDS has downloaded may be unprepared yet, and runs draw pictures.
        folder = path.parent
        if folder == place / "downloads" or (folder / "config.json").is_file():
            continue
        if path.name.lower().endswith(endings):
            own.append(path)
        else:
            others += path.is_file()
    if not own or others > len(own):
        return None
    # Below the name of a data set, that of a configuration, if any, and the version.
    of_tfds = ("*/*/dataset_info.json", "*/*/*/dataset_info.json", "downloads/manual")
    return None if any(any(place.glob(name)) for name in of_tfds) else own[0]


def _default_folder() -> str:
    from tensorflow_datasets.core import constants

    return os.path.expanduser(constants.DATA_DIR)


def _is_prepared(builder: Any) -> bool:
    # `builder.is_prepared()` says the same, but logs a warning when it is False.
    return (builder.data_path / "dataset_info.json").exists()


def _prepared_builder(
    info: DatasetInfo, data_dir: str | os.PathLike[str] | None, download: bool
) -> Any:
    import tensorflow_datasets as tfds

    directory = _folder(data_dir) or _default_folder()
    try:
        builder = _builder(info, data_dir)
    except tfds.core.registered.DatasetNotFoundError:
        # There is no code of that name, and no files either.
        if info.manual is None:
            raise ValueError(
                f"data set {info.name!r} has no TFDS builder {info.tfds_name!r}:"
                " import the module that defines it, or correct the entry in DATASETS"
            ) from None
        raise FileNotFoundError(_manual_message(info, directory)) from None
    if _is_prepared(builder):
        return builder
    if info.embedded:
        with _quiet():
            _prepare(builder, info, directory)
    elif info.manual is not None:
        _prepare_manual(builder, info, directory)
    elif download:
        builder.download_and_prepare()
    else:
        argument = "" if data_dir is None else f", data_dir={directory!r}"
        place = ""
        if data_dir is None:
            place = " the directory that has it with --data-dir (data_dir=...), or"
        raise FileNotFoundError(
            f"there is no data set {info.name!r} in {directory!r}: pass{place}"
            " --download (download=True),"
            ' or run python -c "import tensorflow_datasets as tfds; tfds.builder('
            f"'{info.tfds_name}'{argument}).download_and_prepare()\""
        )
    # A new one, since only a builder that finds the files reads their facts; the
    # files may be another process's.
    return _builder(info, data_dir)


def _manual_message(info: DatasetInfo, directory: str) -> str:
    instructions = (info.manual or "").format(directory=directory)
    return (
        f"there is no data set {info.name!r} in {directory!r}, and nothing can download"
        f" it: {instructions}"
    )


def _prepare(builder: Any, info: DatasetInfo, directory: str, **options: Any) -> None:
    """Writes a data set for which nothing is downloaded."""
    try:
        builder.download_and_prepare(**options)
    except OSError as error:
        # TFDS writes to a folder of its own and renames it at the end. Of two
        # processes that do so at once, the later one fails, and all is well.
        if not _is_prepared(builder):
            raise OSError(
                f"cannot write data set {info.name!r} to {directory!r} ({error}):"
                " pass a directory that can be written with --data-dir (data_dir=...)"
            ) from error


def _prepare_manual(builder: Any, info: DatasetInfo, directory: str) -> None:
    """Prepares CelebA-HQ, the one manual data set that has code."""
    import tensorflow_datasets as tfds

    from aef_tfp.data.celeba_hq import MANUAL_FOLDER
    from aef_tfp.data.finding import find_image_files

    manual = Path(directory) / "downloads" / "manual"
    folder = manual / MANUAL_FOLDER
    if not folder.is_dir() or not find_image_files(folder)[0]:
        raise FileNotFoundError(_manual_message(info, directory))
    config = tfds.download.DownloadConfig(manual_dir=manual)
    _prepare(builder, info, directory, download_config=config)


def _partition_notes(builder: Any) -> list[str]:
    """Says which partition of CelebA-HQ was prepared.

    Raises:
        ValueError: If the lists of the original one were added after that.
    """
    partition = (builder.info.metadata or {}).get("partition")
    if partition is None:
        return []
    if partition == "original":
        return ["the splits are the original partition of CelebA"]
    from aef_tfp.data.celeba_hq import MANUAL_FOLDER, has_partition_lists

    root = Path(builder.data_path).parents[2]
    folder = root / "downloads" / "manual" / MANUAL_FOLDER
    if has_partition_lists(folder):
        raise ValueError(
            f"'{builder.data_path}' was prepared without the lists of the original"
            f" partition, which are in '{folder}' now: delete the former to prepare it"
            " with them, or remove the lists"
        )
    return [
        "the splits are not the original partition of CelebA, but 80, 10 and 10 % by"
        f" number: for the original one, delete {builder.data_path} and add the lists"
        f" to {folder}"
    ]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what TFDS prints while it prepares data off the terminal."""
    from tensorflow_datasets.core.utils import tqdm_utils

    # TFDS has functions to switch its bars, none to ask whether they are on.
    was_active = getattr(tqdm_utils, "_active", True)
    tqdm_utils.display_progress_bar(False)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tqdm_utils.display_progress_bar(was_active)


def _check_sizes(builder: Any, info: DatasetInfo, names: dict[str, Any]) -> None:
    """Raises a ValueError, before anything is read, if a split has too few images."""
    for split, name in names.items():
        number = builder.info.splits[name].num_examples
        least = LEAST_IMAGES[split]
        if number < least:
            noun = "image" if number == 1 else "images"
            raise ValueError(
                f"data set {info.name!r} ({name}) has {number} {noun}: there must be at"
                f" least {least} for {split}: correct the entry in DATASETS or the data"
            )


def _read(
    builder: Any,
    info: DatasetInfo,
    split: str,
    memory_limit: int | None,
    cache_dir: str | os.PathLike[str] | None,
) -> tuple[Split, str | None]:
    """One split, and where it is if not in memory."""
    import tensorflow as tf

    facts = builder.info.splits[split]
    for path in facts.filepaths:
        if not os.path.exists(path):
            missing = f"{os.path.basename(path)} is missing"
            raise _damaged(info, builder.data_path, missing)

    def fill(out: np.ndarray) -> tuple[int, np.ndarray | None, Facts]:
        labels, done = [], 0
        for examples in _examples(builder, info, split).as_numpy_iterator():
            images = examples["image"]
            _check_images(images, info, split)
            out[done : done + len(images)] = images
            done += len(images)
            if "label" in examples:
                labels.append(examples["label"])
        return done, np.concatenate(labels) if labels else None, {}

    try:
        decoded = decode_once(
            info.name,
            (facts.num_examples, *info.image_shape),
            fill,
            key=[
                builder.info.full_name,
                os.fspath(builder.data_path),
                split,
                [
                    (os.fspath(path), *file_state(path))
                    for path in sorted(facts.filepaths)
                ],
                [info.num_levels, info.crop, info.transpose],
            ],
            memory_limit=memory_limit,
            cache_dir=cache_dir,
        )
    # Records that are cut off or changed; fewer or more of them than there should be;
    # images that are none.
    except (
        tf.errors.DataLossError,
        tf.errors.FailedPreconditionError,
        tf.errors.InvalidArgumentError,
    ) as error:
        reason = f"{split}: {error.message}"
        raise _damaged(info, builder.data_path, reason) from error
    return Split(images=decoded.images, labels=decoded.labels), decoded.note


def _examples(builder: Any, info: DatasetInfo, split: str) -> Any:
    """Batches of a split in the order of the files."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    config = tfds.ReadConfig(
        # One file after the other: the order is that of the files, always.
        interleave_cycle_length=1,
        # The whole split is read once; a cache would be a second copy of it.
        try_autocache=False,
    )
    dataset = builder.as_dataset(split=split, shuffle_files=False, read_config=config)
    _check_crop(dataset.element_spec["image"].shape, info, split)

    def select(example: Any) -> Any:
        image = example["image"]
        if info.crop is not None:
            image = tf.image.crop_to_bounding_box(image, *info.crop)
            # A pixel above the levels is to be found, and none is to be made.
            largest = tf.maximum(tf.reduce_max(image), info.num_levels - 1)
            size = info.image_shape[:2]
            if info.transpose:
                size = size[::-1]
            # Bicubic interpolation goes beyond the values it is between.
            image = tf.image.resize(image, size, "bicubic", antialias=True)
            image = tf.saturate_cast(tf.round(image), tf.uint8)
            image = tf.minimum(image, largest)
        if info.transpose:
            image = tf.transpose(image, [1, 0, 2])
        chosen = {"image": image}
        if "label" in example:
            chosen["label"] = example["label"]
        return chosen

    dataset = dataset.map(select, num_parallel_calls=tf.data.AUTOTUNE)
    return dataset.batch(_CHUNK).prefetch(2)


def _check_crop(stored: Any, info: DatasetInfo, split: str) -> None:
    """Raises a ValueError if the part to cut out is not within the stored images."""
    if info.crop is None or not stored.is_fully_defined():
        return
    top, left, height, width = info.crop
    if top + height > stored[0] or left + width > stored[1]:
        raise ValueError(
            f"data set {info.name!r} ({split}) has images of shape {tuple(stored)}, but"
            f" its entry in DATASETS crops {height} x {width} pixels from row {top} and"
            f" column {left}: correct the entry or the data"
        )


def _check_images(images: np.ndarray, info: DatasetInfo, split: str) -> None:
    """Raises a ValueError unless the images are as the table of data sets says."""
    if images.shape[1:] != info.image_shape or images.dtype != np.uint8:
        raise ValueError(
            f"data set {info.name!r} ({split}) has {images.dtype} images of shape"
            f" {images.shape[1:]}, but its entry in DATASETS says uint8 of shape"
            f" {info.image_shape}: correct the entry or the data"
        )
    # All bytes are below 256: those need not be looked at.
    if info.num_levels < 256 and images.max(initial=0) >= info.num_levels:
        raise ValueError(
            f"data set {info.name!r} ({split}) has a pixel of value {images.max()},"
            f" but its entry in DATASETS says {info.num_levels} levels, so at most"
            f" {info.num_levels - 1}: correct the entry or the data"
        )
