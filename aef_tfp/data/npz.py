"""A NumPy file of images as a data set."""

import contextlib
import os
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from aef_tfp.data.folder import own_info, split_sizes
from aef_tfp.data.image_files import problem
from aef_tfp.data.registry import DatasetInfo
from aef_tfp.data.splits import MIN_TEST_IMAGES, Split, Splits
from aef_tfp.data.storage import Facts, decode_once

__all__ = ["load_npz"]

_SPLITS = ("train", "validation", "test")

# Images that are read at once.
_CHUNK = 1024

# What zipfile, zlib and NumPy raise of bytes that are not as they wrote them; the last
# but one of a member without .npy, the last of encrypted and other foreign members.
_BAD_FILE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    ValueError,
    KeyError,
    RuntimeError,
)

_NAMES = (
    "images; or train, test; or train, validation, test (and labels; or train_labels,"
    " ...)"
)


def load_npz(
    info: DatasetInfo,
    path: str | os.PathLike[str],
    *,
    image_size: int | None,
    channels: int | None,
    seed: int,
    memory_limit: int | None,
    cache_dir: str | os.PathLike[str] | None,
) -> Splits:
    """Reads a NumPy file of images; see `load_splits`."""
    file = _file(Path(os.path.expanduser(os.fspath(path))))
    try:
        archive = np.load(file, allow_pickle=False)
    except (OSError, *_BAD_FILE) as error:
        raise ValueError(
            f"'{file}' is no NumPy file of several arrays ({problem(error)}): write it"
            " with"
            " np.savez or np.savez_compressed"
        ) from error
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise ValueError(
            f"'{file}' holds a single array without a name: write it with"
            " np.savez(FILE, images=images)"
        )
    with archive:
        given = _given(archive, file)
        headers = {name: _header(archive, name, file) for name in given}
        shape = _common_shape(headers, file)
        _check_asked(file, shape, image_size, channels)
        labels = {
            name: _labels(archive, name, headers[name][0][0], file) for name in given
        }
        order, note = _orders({n: h[0][0] for n, h in headers.items()}, seed, file)
        parts = []
        state = file.stat()
        notes = [note]
        for split in _SPLITS:
            name, rows = order[split]

            def fill(
                out: np.ndarray, name: str = name, rows: np.ndarray = rows
            ) -> tuple[int, np.ndarray | None, Facts]:
                with _named(name, file):
                    _copy_rows(archive, name, rows, out)
                own_labels = labels[name]
                return len(out), None if own_labels is None else own_labels[rows], {}

            decoded = decode_once(
                f"{info.name}-{split}",
                (len(rows), *shape),
                fill,
                key=[str(file.resolve()), state.st_size, state.st_mtime_ns, seed],
                memory_limit=memory_limit,
                cache_dir=cache_dir,
            )
            parts.append(Split(decoded.images, decoded.labels))
            if decoded.note:
                notes.append(decoded.note)
    train, validation, test = parts
    return Splits(train, validation, test, own_info(info, shape), tuple(notes))


def _file(path: Path) -> Path:
    """The file that is meant."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise FileNotFoundError(
            f"there is no file '{path}': pass your .npz file with --data-dir"
            " (data_dir=...)"
        )
    files = sorted(path.glob("*.npz"))
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise FileNotFoundError(
            f"'{path}' holds {len(files)} .npz files ({names}), not exactly one: pass"
            " the file itself with --data-dir (data_dir=...)"
        )
    return files[0]


def _given(archive: Any, file: Path) -> list[str]:
    """The names of the arrays of images."""
    names = set(archive.files)
    images = {name for name in names if not name.endswith("labels")}
    if images not in ({"images"}, {"train", "test"}, set(_SPLITS)):
        raise ValueError(
            f"'{file}' has the arrays {', '.join(sorted(names)) or 'none'}; they must"
            f" be {_NAMES}: write it with np.savez and these names"
        )
    unknown = names - images - {_labels_name(name) for name in images}
    if unknown:
        raise ValueError(
            f"'{file}' has labels {', '.join(sorted(unknown))} without images; the"
            f" arrays must be {_NAMES}: rename or remove them"
        )
    return sorted(images)


def _labels_name(name: str) -> str:
    return "labels" if name == "images" else f"{name}_labels"


@contextlib.contextmanager
def _named(name: str, file: Path) -> Iterator[None]:
    """Adds to an error of reading which array of which file it was."""
    try:
        yield
    except _BAD_FILE as error:
        # A KeyError's text is its argument in quotes.
        reason = error.args[0] if isinstance(error, KeyError) else problem(error)
        raise ValueError(
            f"array {name!r} of '{file}' cannot be read ({reason}): write the file"
            " again with np.savez or np.savez_compressed"
        ) from error


@contextlib.contextmanager
def _member(archive: Any, name: str) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """One array of the file: a stream at its first byte, and its header."""
    with archive.zip.open(f"{name}.npy") as stream:
        version = np.lib.format.read_magic(stream)
        read = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        yield stream, read(stream)


def _header(archive: Any, name: str, file: Path) -> tuple[tuple[int, ...], bool]:
    """The shape of an array and whether it is stored by columns."""
    with _named(name, file), _member(archive, name) as (_, header):
        shape, by_columns, dtype = header
    if dtype != np.uint8:
        raise ValueError(
            f"array {name!r} of '{file}' is {dtype}; images must be uint8, 0 to"
            " 255: of floats in [0, 1] save np.round(255 * images).astype('uint8')"
        )
    if shape[:1] == (0,):
        raise ValueError(
            f"array {name!r} of '{file}' holds no images: its shape is {shape}; check"
            " what was saved"
        )
    if len(shape) not in (3, 4) or 0 in shape or shape[3:] not in ((), (1,), (3,)):
        raise ValueError(
            f"array {name!r} of '{file}' has shape {shape}; images must be"
            " [n, H, W], [n, H, W, 1] or [n, H, W, 3]: reshape or transpose it"
        )
    return shape, by_columns


def _common_shape(
    headers: dict[str, tuple[tuple[int, ...], bool]], file: Path
) -> tuple[int, int, int]:
    shapes = {name: (*shape[1:], 1)[:3] for name, (shape, _) in headers.items()}
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(
            f"the images in '{file}' differ in shape ({listed}): make them equal"
        )
    height, width, channels = next(iter(shapes.values()))
    return height, width, channels


def _check_asked(
    file: Path,
    shape: tuple[int, int, int],
    image_size: int | None,
    channels: int | None,
) -> None:
    if image_size is not None and shape[:2] != (image_size, image_size):
        raise ValueError(
            f"image_size is {image_size}, but '{file}' has images of {shape[0]} x"
            f" {shape[1]}, which are taken as they are: leave it out, or resize the"
            " images before you save them"
        )
    if channels is not None and shape[2] != channels:
        raise ValueError(
            f"channels is {channels}, but the images in '{file}' have {shape[2]}, and"
            " are taken as they are: leave it out, or convert the images before you"
            " save them"
        )


def _labels(archive: Any, name: str, num_images: int, file: Path) -> np.ndarray | None:
    label_name = _labels_name(name)
    if label_name not in archive.files:
        return None
    with _named(label_name, file):
        labels = archive[label_name]
    if not isinstance(labels, np.ndarray):
        # NumPy gives the bytes of a member that is none of its own.
        raise ValueError(
            f"array {label_name!r} of '{file}' is no array: write the file again with"
            " np.savez or np.savez_compressed"
        )
    if labels.shape != (num_images,) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"array {label_name!r} of '{file}' is {labels.dtype} of shape"
            f" {labels.shape}; labels must be integers of shape ({num_images},), one"
            f" for each image of {name!r}: correct or remove them"
        )
    return labels.astype(np.int64)


def _orders(
    sizes: dict[str, int], seed: int, file: Path
) -> tuple[dict[str, tuple[str, np.ndarray]], str]:
    """For every split the array it is read from and the rows, in order."""
    random = np.random.default_rng(seed)
    if sizes.get("test", MIN_TEST_IMAGES) < MIN_TEST_IMAGES:
        raise ValueError(
            f"array 'test' of '{file}' holds {sizes['test']} image: there must be at"
            f" least {MIN_TEST_IMAGES}: add more"
        )
    if "validation" in sizes:
        given = {name: (name, np.arange(sizes[name])) for name in _SPLITS}
        return given, f"splits as given in '{file}'"
    drawn = f"drawn by seed {seed}"
    if "images" in sizes:
        counts = split_sizes(sizes["images"], f"'{file}'")
        rows = np.split(random.permutation(sizes["images"]), np.cumsum(counts)[:2])
        numbers = "{:,} training, {:,} validation, {:,} test images".format(*counts)
        orders = {s: ("images", r) for s, r in zip(_SPLITS, rows, strict=True)}
        return orders, f"splits {drawn}: {numbers}"
    if sizes["train"] < 2:
        raise ValueError(
            f"array 'train' of '{file}' holds {sizes['train']} image: there must be at"
            " least 2, one of them for validation: add more"
        )
    tenth = max(1, round(sizes["train"] / 10))
    validation, train = np.split(random.permutation(sizes["train"]), [tenth])
    orders = {
        "train": ("train", train),
        "validation": ("train", validation),
        "test": ("test", np.arange(sizes["test"])),
    }
    return orders, f"{tenth:,} of {sizes['train']:,} training images, {drawn}, validate"


def _copy_rows(archive: Any, name: str, rows: np.ndarray, out: np.ndarray) -> None:
    """Writes some images of an array in a given order, without reading it whole."""
    with _member(archive, name) as (stream, (shape, by_columns, _)):
        if by_columns:
            # Its images are not contiguous.
            out[...] = archive[name][rows].reshape(out.shape)
            return
        place = np.full(shape[0], -1)
        place[rows] = np.arange(len(rows))
        for start in range(0, shape[0], _CHUNK):
            number = min(_CHUNK, shape[0] - start)
            size = number * int(np.prod(out.shape[1:]))
            buffer = stream.read(size)
            if len(buffer) != size:
                raise EOFError("it ends after fewer images than it says")
            chunk = np.frombuffer(buffer, np.uint8).reshape(number, *out.shape[1:])
            wanted = place[start : start + number]
            kept = wanted >= 0
            out[wanted[kept]] = chunk[kept]
