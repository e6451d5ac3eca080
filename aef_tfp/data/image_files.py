"""Image files as arrays of bytes, by Pillow.

Pillow and not `tf.io.decode_image`: it reads palettes, CMYK, WebP and 16 bits, knows
transparency and the orientation that a camera notes, and says what is wrong with a
file.
"""

import contextlib
import dataclasses
import itertools
import os
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from aef_tfp.data.levels import AboveLevels

__all__ = [
    "EXTENSIONS",
    "Header",
    "TooManyBits",
    "largest_value",
    "parallel",
    "problem",
    "read_header",
    "read_image",
]

# The formats that every Pillow reads, by the endings of their files. It knows others,
# one of which starts another program.
_ENDINGS = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "BMP": (".bmp",),
    "DIB": (".dib",),
    "GIF": (".gif",),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}

EXTENSIONS = tuple(itertools.chain(*_ENDINGS.values()))
"""What image files are recognized by, in upper case or lower."""

_FORMATS = tuple(_ENDINGS)

_SIXTEEN_BITS = {"I", "I;16", "I;16B", "I;16L", "I;16N"}
_GREY_MODES = {"1", "L", "LA", "La", "F", *_SIXTEEN_BITS}

# The largest value of grey files of 2 and 4 bits, which Pillow makes 255.
_FEW_BITS = {"L;2": 3, "L;4": 15}

# A tag of TIFF files, whose first bit says that a page is another one made smaller.
_SUBFILE_TYPE = 254

# A tag of TIFF files, and what it is where 0 stands for white.
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0

# What sets an image upright, by the orientation that a camera notes.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Pixels of an image that takes gigabytes to decode, which as many threads as there are
# cores must not do at once.
_LARGE = 2**26
_one_large = threading.Lock()

_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclasses.dataclass(frozen=True)
class Header:
    """What the beginning of an image file says.

    Args:
        width: In pixels, as stored.
        height: In pixels, as stored.
        grey: Whether it has no colour. A palette counts as colour.
        deep: Whether its pixels have more than 8 bits.
        cut: Whether Pillow reads only the upper 8 of them, as it does in colour.
        several: Whether there are further pictures: pages, frames of an animation.
    """

    width: int
    height: int
    grey: bool
    deep: bool
    cut: bool
    several: bool


class TooManyBits(ValueError):  # noqa: N818 - as UnidentifiedImageError's sibling
    """A value of a file is larger than its number of bits allows."""


class _Reading:
    """What is different in Pillow, for all threads, while a user's files are open.

    It takes large images for attacks, which those of a user are not, and does not say
    which file a warning is about.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._number = 0
        self._limit: int | None = None
        self._show: Callable[..., Any] = warnings.showwarning
        self._show_named: Callable[..., Any] = self._named
        self._here = threading.local()

    @contextlib.contextmanager
    def of(self, path: Path) -> Iterator[None]:
        """Lasts until the last thread has closed its file."""
        self._here.path = path
        with self._lock:
            self._number += 1
            if self._number == 1:
                self._limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
                # Who kept it over such a time may have put it back.
                if warnings.showwarning is not self._show_named:
                    self._show = warnings.showwarning
                warnings.showwarning = self._show_named
        try:
            yield
        finally:
            self._here.path = None
            with self._lock:
                self._number -= 1
                if not self._number:
                    Image.MAX_IMAGE_PIXELS = self._limit
                    warnings.showwarning = self._show

    def _named(self, message: Warning | str, kind: type[Warning], *place: Any) -> None:
        path = getattr(self._here, "path", None)
        text = message if path is None else kind(f"'{path}': {message}")
        self._show(text, kind, *place)


_reading = _Reading()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    # Of a path, Pillow maps the file into memory, which shears TIFF files that are
    # stored on their side.
    with (
        _reading.of(path),
        path.open("rb") as stream,
        Image.open(stream, formats=_FORMATS) as image,
    ):
        yield image


@contextlib.contextmanager
def _decoding(path: Path, longer: int | None = None) -> Iterator[Image.Image]:
    """An image file whose pixels are to be read, of large ones one at a time.

    A JPEG can be decoded at 1/2, 1/4 or 1/8 of its size: at no less than `longer` here.
    """
    with _opened(path) as image:
        if longer is not None:
            image.draft(None, (longer, longer))
        is_large = image.width * image.height > _LARGE
        with _one_large if is_large else contextlib.nullcontext():
            yield image


def read_header(path: Path) -> Header:
    """Size and kind of an image file, without decoding it."""
    with _opened(path) as image:
        grey, cut = image.mode in _GREY_MODES, _is_cut(image)
        deep = cut or image.mode in _SIXTEEN_BITS
        width, height = image.size
        return Header(width, height, grey, deep, cut, _has_several(image))


def _has_several(image: Image.Image) -> bool:
    # The further ones of a camera's JPEG are other views of the first, or maps of it.
    if image.format == "MPO":
        return False
    # Where a second one is damaged, the first may be whole.
    with contextlib.suppress(Exception):
        if not getattr(image, "is_animated", False) or image.format != "TIFF":
            return bool(getattr(image, "is_animated", False))
        # Of scanners and maps the second page is the first one made smaller.
        image.seek(1)
        return not int(getattr(image, "tag_v2", {}).get(_SUBFILE_TYPE, 0)) & 1
    return False


def _is_cut(image: Image.Image) -> bool:
    """Whether Pillow reads a part of the bits: how they are stored is all it says."""
    if image.mode in _SIXTEEN_BITS:
        return False
    arguments = [tile[3] for tile in getattr(image, "tile", [])]
    return any(
        isinstance(word, str) and ";16" in word
        for one in arguments
        for word in (one if isinstance(one, tuple) else (one,))
    )


def _own_white(image: Image.Image) -> int:
    """The largest value that a file of up to 8 bits can have: Pillow makes it 255."""
    if image.mode == "1":
        return 1
    for name, _, _, arguments in getattr(image, "tile", []):
        words = arguments if isinstance(arguments, tuple) else (arguments,)
        for word in words:
            # TIFF has further letters for the order of bits.
            if isinstance(word, str) and word[:3] in _FEW_BITS:
                return _FEW_BITS[word[:3]]
            # Of PPM files with another white than 255.
            if name.startswith("ppm") and isinstance(word, int):
                return min(word, 255)
    return 255


def largest_value(path: Path) -> int:
    """The largest value of a file of 16 bits, to the precision that Pillow reads."""
    with _decoding(path) as image:
        if image.mode in _SIXTEEN_BITS:
            return int(_deep_values(image).max())
        colours = image.convert("RGB")
        return 256 * int(np.asarray(colours).max()) + 255


def read_image(
    path: Path,
    height: int,
    width: int,
    channels: int,
    bit_depth: int = 16,
    num_levels: int = 256,
) -> np.ndarray:
    """An image file, cropped around its centre and resized.

    The orientation that a camera notes (EXIF) is applied. 16 bits become 8,
    transparent pixels are composed with white, palettes and CMYK become RGB, of an
    animation the first frame is taken. The largest centred part of the wanted
    proportions is resized: bicubic, antialiased.

    With fewer than 256 levels, values are those of the file, of one bit 0 and 1, and
    what resizing makes of them stays among the levels.

    Args:
        path: The file.
        height: Rows wanted.
        width: Columns wanted.
        channels: 1 for grey (of colours the luma of ITU-R 601-2), 3 for RGB.
        bit_depth: How many of 16 bits are used: white is 2**bit_depth - 1.
        num_levels: How many values a pixel can take.

    Returns:
        `[height, width, channels]`, uint8.

    Raises:
        TooManyBits: If a value of 16 bits is above that.
        AboveLevels: If a value that is not cropped is above the levels.
        Exception: Whatever Pillow raises of a damaged file.
    """
    with _decoding(path, 2 * max(height, width)) as file:
        if bit_depth < 16 and _is_cut(file):
            raise TooManyBits("has 16 bits, of which only the upper 8 can be read")
        own = _own_white(file)
        _correct_transparency(file, own)
        own = own if num_levels < 256 else 255
        # Pillow minds this where a TIFF file has 8 bits, not where it has more.
        inverted = getattr(file, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO
        image = _eight_bits(_upright(file), bit_depth, inverted)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            # The brightest level, in what Pillow makes of the file.
            level = min(255, round(255 * (num_levels - 1) / own))
            white = Image.new("RGBA", image.size, (level, level, level, 255))
            image = Image.alpha_composite(white, image)
        image = image.convert("L" if channels == 1 else "RGB")
        image = image.crop(_central(image.width, image.height, width, height))
        if own < 255:
            table = [round(own * value / 255) for value in range(256)]
            image = image.point(table * channels)
        if num_levels < 256:
            largest = int(np.asarray(image).max())
            if largest >= num_levels:
                raise AboveLevels(f"'{path}'", largest, num_levels)
        # On the way to a smaller size Pillow antialiases.
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        pixels = np.asarray(image, np.uint8).reshape(height, width, channels)
        # Bicubic interpolation goes beyond the values it is between.
        return np.minimum(pixels, np.uint8(num_levels - 1))


def _correct_transparency(image: Image.Image, own_white: int) -> None:
    """Makes a value of a PNG file what Pillow makes of the file's pixels."""
    value = image.info.get("transparency")
    if isinstance(value, tuple) and _is_cut(image):
        image.info["transparency"] = tuple(part >> 8 for part in value)
    elif isinstance(value, int) and image.mode == "L":
        image.info["transparency"] = value * 255 // own_white


def _upright(image: Image.Image) -> Image.Image:
    """The image as the camera was held, by EXIF or XMP.

    `ImageOps.exif_transpose` also writes all tags anew, and fails if one is odd.
    """
    # Pillow turns TIFF files itself, and then forgets their orientation.
    image.load()
    turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return image.copy() if turn is None else image.transpose(turn)


def _central(
    width: int, height: int, to_width: int, to_height: int
) -> tuple[int, int, int, int]:
    """The largest centred box of the wanted proportions: left, top, right, bottom."""
    scale = min(width / to_width, height / to_height)
    across = max(1, round(scale * to_width))
    down = max(1, round(scale * to_height))
    left, top = (width - across) // 2, (height - down) // 2
    return left, top, left + across, top + down


def _eight_bits(image: Image.Image, bit_depth: int, inverted: bool) -> Image.Image:
    if image.mode == "F":
        raise ValueError("its pixels are real numbers of no known range")
    if image.mode not in _SIXTEEN_BITS:
        return image
    values = _deep_values(image)
    white = 2**bit_depth - 1
    # Of PNG files, a value; NumPy's arrays do not hand it on.
    values[values == image.info.get("transparency", -1)] = white
    if values.max() > white:
        raise TooManyBits(f"has a value of {values.max():,}")
    if inverted:
        values = white - values
    return Image.fromarray(((255 * values + white // 2) // white).astype(np.uint8))


def _deep_values(image: Image.Image) -> np.ndarray:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0:
        raise ValueError("it has negative pixels")
    if values.max() > 65_535:
        raise ValueError("its pixels have more than 16 bits")
    return values


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
