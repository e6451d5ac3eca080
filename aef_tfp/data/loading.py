"""Image data in memory: read through TFDS once, with splits that never change."""

import contextlib
import dataclasses
import io
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from aef_tfp.data.registry import DatasetInfo, dataset_info

__all__ = ["Split", "Splits", "load_splits"]


# Two arrays have no single truth value, so a generated `==` could only fail.
@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """The images of one split, in a fixed order.

    Example:
        >>> len(Split(images=np.zeros([3, 8, 8, 1], np.uint8)))
        3

    Args:
        images: `[n, H, W, C]`, uint8, from 0 to the number of levels - 1.
        labels: `[n]`, int64, or None if the data set has none.
    """

    images: np.ndarray
    labels: np.ndarray | None = None

    def __len__(self) -> int:
        """The number of images."""
        return len(self.images)


@dataclasses.dataclass(frozen=True, eq=False)
class Splits:
    """A data set in memory.

    Args:
        train: The images to fit.
        validation: The images to choose settings and stop early by.
        test: The images to report on.
        info: The facts of the data set.
    """

    train: Split
    validation: Split
    test: Split
    info: DatasetInfo


def load_splits(
    name: str, data_dir: str | os.PathLike[str] | None = None, download: bool = False
) -> Splits:
    """A data set by name, decoded into memory.

    The images stay unsigned bytes (42 MB for MNIST's 54,000). Held in memory, they can
    be read in any order: this is what makes the order of training exact, a real
    permutation in every epoch, and resumable at any step.

    Validation images are the last part of the training split, by their place in the
    files: the same ones in every run, whatever its seed.

    Example:
        >>> splits = load_splits("digits")
        >>> splits.train.images.shape
        (1347, 8, 8, 1)

    Args:
        name: A key of `DATASETS`.
        data_dir: The folder of TFDS data sets; None is TFDS's own default, the
            environment variable `TFDS_DATA_DIR` or else `~/tensorflow_datasets`.
        download: Whether to download and prepare the data set if `data_dir` does not
            hold it; TFDS then shows its progress. An embedded data set (`digits`) is
            prepared on first use, quietly and without a network, in any case.

    Returns:
        The training, validation and test images.

    Raises:
        FileNotFoundError: If `data_dir` does not hold the data set, and `download` is
            False.
        OSError: If an embedded data set cannot be written to `data_dir`.
        ValueError: If there is no data set of that name, or the data found are not
            those which `DATASETS` describes.
    """
    info = dataset_info(name)
    builder = _prepared_builder(info, data_dir, download)
    percent = round(100 * (1 - info.validation_fraction))
    return Splits(
        train=_read(builder, info, f"{info.train_split}[:{percent}%]"),
        validation=_read(builder, info, f"{info.train_split}[{percent}%:]"),
        test=_read(builder, info, info.test_split),
        info=info,
    )


def _builder(info: DatasetInfo, data_dir: str | os.PathLike[str] | None) -> Any:
    import tensorflow_datasets as tfds

    if info.embedded:
        # Importing the module registers its builder.
        from aef_tfp.data import digits  # noqa: F401

    directory = None if data_dir is None else os.path.expanduser(os.fspath(data_dir))
    if directory == "":
        # TFDS would take it for None.
        directory = os.curdir
    # TFDS would otherwise look for a copy in Google's cloud first.
    return tfds.builder(info.tfds_name, data_dir=directory, try_gcs=False)


def _is_prepared(builder: Any) -> bool:
    # `builder.is_prepared()` says the same, but logs a warning when it is False.
    return (builder.data_path / "dataset_info.json").exists()


def _prepared_builder(
    info: DatasetInfo, data_dir: str | os.PathLike[str] | None, download: bool
) -> Any:
    builder = _builder(info, data_dir)
    if _is_prepared(builder):
        return builder
    directory = os.fspath(builder.data_path.parent.parent)
    if info.embedded:
        _prepare_embedded(builder, info, directory)
    elif download:
        builder.download_and_prepare()
    else:
        argument = "" if data_dir is None else f", data_dir={directory!r}"
        raise FileNotFoundError(
            f"there is no data set {info.name!r} in {directory!r}: pass --download"
            " (download=True),"
            ' or run python -c "import tensorflow_datasets as tfds; tfds.builder('
            f"'{info.tfds_name}'{argument}).download_and_prepare()\""
        )
    # A new one, since only a builder that finds the files reads their facts; the
    # files may be another process's.
    return _builder(info, data_dir)


def _prepare_embedded(builder: Any, info: DatasetInfo, directory: str) -> None:
    try:
        with _quiet():
            builder.download_and_prepare()
    except OSError as error:
        # TFDS writes to a folder of its own and renames it at the end. Of two
        # processes that do so at once, the later one fails, and all is well.
        if not _is_prepared(builder):
            raise OSError(
                f"cannot write data set {info.name!r} to {directory!r} ({error}):"
                " pass a data_dir that can be written"
            ) from error


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


def _read(builder: Any, info: DatasetInfo, split: str) -> Split:
    import tensorflow_datasets as tfds

    config = tfds.ReadConfig(
        # One file after the other: the order is that of the files, always.
        interleave_cycle_length=1,
        # The whole split is read once; a cache would be a second copy of it.
        try_autocache=False,
    )
    examples = builder.as_dataset(
        split=split, batch_size=-1, shuffle_files=False, read_config=config
    )
    images = examples["image"].numpy()
    _check_images(images, info, split)
    labels = examples["label"].numpy() if "label" in examples else None
    return Split(images=images, labels=labels)


def _check_images(images: np.ndarray, info: DatasetInfo, split: str) -> None:
    """Raises a ValueError unless the images are as the table of data sets says."""
    if images.shape[1:] != info.image_shape or images.dtype != np.uint8:
        raise ValueError(
            f"data set {info.name!r} ({split}) has {images.dtype} images of shape"
            f" {images.shape[1:]}, but its entry in DATASETS says uint8 of shape"
            f" {info.image_shape}: correct the entry or the data"
        )
    if images.max(initial=0) >= info.num_levels:
        raise ValueError(
            f"data set {info.name!r} ({split}) has a pixel of value {images.max()},"
            f" but its entry in DATASETS says {info.num_levels} levels, so at most"
            f" {info.num_levels - 1}: correct the entry or the data"
        )
