"""Image files as arrays of bytes, by Pillow.

Pillow and not `tf.io.decode_image`: it reads palettes, CMYK, WebP and 16 bits, knows
transparency and the orientation that a camera notes, and says what is wrong with a
file.
"""

import dataclasses
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

__all__ = [
    "EXTENSIONS",
    "Header",
    "find_image_files",
    "parallel",
    "problem",
    "read_header",
    "read_image",
]

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")
"""What image files are recognized by, in upper case or lower."""

# The formats of these. Pillow knows others, one of which starts another program.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP")

_GREY_MODES = {"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N", "F"}
_SIXTEEN_BITS = {"I", "I;16", "I;16B", "I;16L", "I;16N"}

_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclasses.dataclass(frozen=True)
class Header:
    """What the beginning of an image file says.

    Args:
        width: In pixels, as stored.
        height: In pixels, as stored.
        grey: Whether it has no colour. A palette counts as colour.
    """

    width: int
    height: int
    grey: bool


def find_image_files(folder: Path) -> tuple[list[str], list[str]]:
    """The image files below a folder, and the other files.

    Hidden files and folders (those whose names begin with a dot) are left out.

    Returns:
        Two lists of paths relative to the folder, with "/", sorted by their characters:
        in the same order on every file system.
    """
    images: list[str] = []
    others: list[str] = []
    for root, directories, names in os.walk(folder):
        directories[:] = [name for name in directories if not name.startswith(".")]
        for name in names:
            if name.startswith("."):
                continue
            path = (Path(root) / name).relative_to(folder).as_posix()
            is_image = name.lower().endswith(EXTENSIONS)
            (images if is_image else others).append(path)
    return sorted(images), sorted(others)


def read_header(path: Path) -> Header:
    """Size and kind of an image file, without decoding it."""
    with Image.open(path, formats=_FORMATS) as image:
        return Header(image.width, image.height, image.mode in _GREY_MODES)


def read_image(path: Path, height: int, width: int, channels: int) -> np.ndarray:
    """An image file, cropped around its centre and resized.

    The orientation that a camera notes (EXIF) is applied. 16 bits become 8,
    transparent pixels are composed with white, palettes and CMYK become RGB, of an
    animation the first frame is taken. The largest centred part of the wanted
    proportions is resized: bicubic, antialiased.

    Args:
        path: The file.
        height: Rows wanted.
        width: Columns wanted.
        channels: 1 for grey (of colours the luma of ITU-R 601-2), 3 for RGB.

    Returns:
        `[height, width, channels]`, uint8.
    """
    with Image.open(path, formats=_FORMATS) as file:
        # A JPEG can be decoded at 1/2, 1/4 or 1/8 of its size: here, at no less than
        # twice what is wanted in the end.
        longer = 2 * max(height, width)
        file.draft(None, (longer, longer))
        image = _eight_bits(ImageOps.exif_transpose(file))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    image = image.convert("L" if channels == 1 else "RGB")
    image = image.crop(_central(image.width, image.height, width, height))
    # On the way to a smaller size Pillow antialiases.
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image, np.uint8).reshape(height, width, channels)


def _central(
    width: int, height: int, to_width: int, to_height: int
) -> tuple[int, int, int, int]:
    """The largest centred box of the wanted proportions: left, top, right, bottom."""
    scale = min(width / to_width, height / to_height)
    across = max(1, round(scale * to_width))
    down = max(1, round(scale * to_height))
    left, top = (width - across) // 2, (height - down) // 2
    return left, top, left + across, top + down


def _eight_bits(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("its pixels are real numbers of no known range")
    if image.mode not in _SIXTEEN_BITS:
        return image
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65_535:
        raise ValueError("its pixels have more than 16 bits")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def problem(error: Exception) -> str:
    """Says in a few words why a file could not be read."""
    if isinstance(error, UnidentifiedImageError):
        return "no image of a known format"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def parallel(
    function: Callable[[_T], _R], arguments: Sequence[_T]
) -> Iterable[_R | Exception]:
    """Calls a function of each argument, in threads; a file's error takes its place.

    Pillow lets other threads run while it decodes and resizes.
    """

    def attempt(argument: _T) -> _R | Exception:
        try:
            return function(argument)
        # Pillow's decoders raise whatever a broken file makes them raise: OSError,
        # SyntaxError, struct.error, ...
        except Exception as error:
            return error

    executor = ThreadPoolExecutor(os.cpu_count())
    try:
        yield from executor.map(attempt, arguments)
    finally:
        # After an interruption, what has not begun never does.
        executor.shutdown(cancel_futures=True)
