"""The images that an evaluation takes for anomalies."""

import difflib
from pathlib import Path
from typing import Any

import numpy as np

from aef_tfp.data import Splits, load_splits
from aef_tfp.data.registry import DATASETS
from aef_tfp.runs.config import RunSettings

__all__ = ["load_anomalies"]


def load_anomalies(
    name: str,
    run: RunSettings,
    splits: Splits,
    *,
    data_dir: Path | None = None,
    download: bool = False,
) -> tuple[str, np.ndarray]:
    """Loads images that are like a run's in form, and are none of its kind.

    Args:
        name: A data set by its name, of which the test images are taken; or a folder of
            images, or a NumPy file, of which all are, read as the run's own are.
        run: The run.
        splits: The run's images.
        data_dir: Where the run's images are: data sets of TFDS are looked for there,
            too, unless the run's own images are something else.
        download: Whether TFDS may download the data set.

    Returns:
        What they are, in words, and the images.

    Raises:
        FileNotFoundError: If there are no such images.
        ValueError: If they have another shape or other levels than the run's.
    """
    shape, levels = splits.info.image_shape, splits.info.num_levels
    info = DATASETS.get(name)
    if info is not None and info.source == "tfds":
        found = load_splits(
            name,
            data_dir if splits.info.source == "tfds" else None,
            download,
            seed=run.seed,
        )
        what, images = f"test images of {name}", found.test.images
    else:
        path = Path(name)
        if info is not None or not name or not path.exists():
            raise _no_images(name)
        is_file = path.suffix == ".npz"
        # As in a run that has begun.
        depth = run.bit_depth or 16
        own: dict[str, Any] = {"num_levels": levels, "seed": run.seed}
        if not is_file:
            own |= {"image_size": shape[0], "channels": shape[2], "bit_depth": depth}
            own["skip_unreadable"] = run.skip_unreadable
        found = load_splits("npz" if is_file else "folder", path, **own)
        what = f"images of {path.resolve().name}"
        parts = (found.train, found.validation, found.test)
        images = np.concatenate([part.images for part in parts])
    given = found.info.image_shape, found.info.num_levels
    if given != (shape, levels):
        form = "{} x {} x {} with {} levels"
        raise ValueError(
            f"anomalies are to have the form of the run's images, "
            f"{form.format(*shape, levels)}, got {name!r} with "
            f"{form.format(*given[0], given[1])}."
        )
    return what, images


def _no_images(name: str) -> Exception:
    names = [key for key, info in DATASETS.items() if info.source == "tfds"]
    if name in DATASETS:
        return ValueError(f"anomalies {name!r} need a place: name the place itself.")
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return FileNotFoundError(
        f"anomalies must be a data set, or a folder of images or .npz file that is "
        f"there, got {name!r}.{hint}"
    )
