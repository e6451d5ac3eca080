"""CelebA-HQ from files that a person has fetched, as a TFDS data set."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from aef_tfp.data.finding import find_image_files
from aef_tfp.data.image_files import parallel, problem, read_image
from aef_tfp.data.registry import CELEBA_MASK_HQ_URL, CELEBA_URL
from aef_tfp.data.splits import LEAST_IMAGES, SPLITS

__all__ = ["MANUAL_FOLDER", "CelebaHq", "has_partition_lists"]

MANUAL_FOLDER = "celeba_hq"
"""The folder, in the folder of manual downloads, that holds the files."""

_NUM_IMAGES = 30_000
_MAPPINGS = ("CelebA-HQ-to-CelebA-mapping.txt", "image_list.txt")
_PARTITION = "list_eval_partition.txt"


class CelebaHqConfig(tfds.core.BuilderConfig):
    """A size of the images.

    Args:
        size: Their side in pixels.
    """

    def __init__(self, *, size: int):
        super().__init__(name=str(size), description=f"Images of {size} x {size}")
        self.size = size


class CelebaHq(tfds.core.GeneratorBasedBuilder):
    """30,000 faces of CelebA-HQ, resized, in the original partition of CelebA.

    TFDS's own `celeb_a_hq` reads archives that a program of 2018 wrote, one for each
    size, and has no validation and test images. This one reads the images in any size
    and format: image files anywhere below `downloads/manual/celeba_hq`, whose names
    number them (`0.jpg` to `29999.jpg`, or from 1, with zeros or a prefix, as you
    like).

    Two text files, in that folder or any below it, give the original partition: 24,183
    images for training, 2,993 for validation, 2,824 for test.

    - `CelebA-HQ-to-CelebA-mapping.txt` (or `image_list.txt`, whose first columns are
      the same): for the number of every image, from 0, its file in CelebA.
    - `list_eval_partition.txt`: for every file of CelebA 0, 1 or 2.

    Without them, the first 24,000 images by number are for training, the next 3,000 for
    validation, the last 3,000 for test. The prepared data set remembers which it was.

    Importing this module is what makes the name known to TFDS.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "The first version."}  # noqa: RUF012 (TFDS's name)
    BUILDER_CONFIGS = [  # noqa: RUF012 (TFDS's name)
        CelebaHqConfig(size=32),
        CelebaHqConfig(size=64),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Put the 30,000 image files, and for the original partition"
        f" {_MAPPINGS[0]} and {_PARTITION}, into {MANUAL_FOLDER}."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        size = self.builder_config.size
        return tfds.core.DatasetInfo(
            builder=self,
            description="30,000 faces of CelebA in high quality, resized.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(
                        shape=(size, size, 3), dtype=np.uint8, encoding_format="png"
                    ),
                    "file_name": tfds.features.Text(),
                }
            ),
            homepage="https://github.com/tkarras/progressive_growing_of_gans",
            citation="""@inproceedings{karras2018progressive,
  author = {Karras, Tero and Aila, Timo and Laine, Samuli and Lehtinen, Jaakko},
  title = {Progressive Growing of {GANs} for Improved Quality, Stability, and
    Variation},
  booktitle = {International Conference on Learning Representations},
  year = {2018}
}""",
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
        folder = Path(dl_manager.manual_dir) / MANUAL_FOLDER
        names = _numbered(folder)
        places = _partition(folder, names)
        original = places is not None
        self.info.metadata["partition"] = "original" if original else "by number"
        if places is None:
            ends = np.array([8, 9]) * len(names) // 10
            places = np.searchsorted(ends, np.arange(len(names)), side="right").tolist()
        return {
            split: self._generate_examples(
                folder,
                [name for name, at in zip(names, places, strict=True) if at == place],
            )
            for place, split in enumerate(SPLITS)
        }

    def _generate_examples(
        self, folder: Path, names: Sequence[str]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        size = self.builder_config.size

        def read(name: str) -> np.ndarray:
            return read_image(folder / name, size, size, 3)

        for name, image in zip(names, parallel(read, names), strict=True):
            if isinstance(image, Exception):
                raise ValueError(
                    f"cannot read '{folder / name}' ({problem(image)}): fetch it again"
                )
            yield name, {"image": image, "file_name": name}


def has_partition_lists(folder: Path) -> bool:
    """Whether there are files that give the original partition."""
    return any(_found(folder).values())


def _found(folder: Path) -> dict[str, Path | None]:
    """The mapping and the partition list, or None, anywhere below a folder.

    CelebAMask-HQ unpacks its mapping into a folder of its own, beside the images.
    """
    _, others = find_image_files(folder)
    # The outermost; of the two names of a mapping, the first.
    paths = sorted(
        (Path(name) for name in others), key=lambda path: (len(path.parts), path)
    )
    found: dict[str, Path | None] = {}
    for kind, names in (("mapping", _MAPPINGS), ("partition", (_PARTITION,))):
        fitting = (path for name in names for path in paths if path.name == name)
        found[kind] = next((folder / path for path in fitting), None)
    return found


def _numbered(folder: Path) -> list[str]:
    """The image files in the order of their numbers."""
    by_number: dict[int, str] = {}
    names, _ = find_image_files(folder)
    for name in names:
        digits = re.findall(r"\d+", Path(name).stem)
        if not digits:
            raise ValueError(
                f"'{folder / name}' has no number in its name: remove it, or name it"
                " as CelebA-HQ does"
            )
        number = int(digits[-1])
        if number in by_number:
            raise ValueError(
                f"'{folder}' has two images of number {number}, {by_number[number]} and"
                f" {name}: keep one copy of the images"
            )
        by_number[number] = name
    first = 0 if 0 in by_number else 1
    missing = next(
        n for n in range(first, first + len(names) + 1) if n not in by_number
    )
    if len(names) != _NUM_IMAGES or missing != first + _NUM_IMAGES:
        raise ValueError(
            f"'{folder}' has {len(names):,} images, not the {_NUM_IMAGES:,} of"
            f" CelebA-HQ; the first number missing is {missing}: add what is missing"
            f" ({CELEBA_MASK_HQ_URL}), remove what does not belong"
        )
    return [by_number[number] for number in sorted(by_number)]


def _partition(folder: Path, names: Sequence[str]) -> list[int] | None:
    """For every image 0, 1 or 2, as CelebA says; None if there are no lists."""
    mapping, partition = _found(folder).values()
    if mapping is None and partition is None:
        return None
    if mapping is None or partition is None:
        if mapping is None:
            there, absent, url = _PARTITION, _MAPPINGS[0], CELEBA_MASK_HQ_URL
        else:
            there, absent, url = mapping.name, _PARTITION, CELEBA_URL
        raise ValueError(
            f"'{folder}' has {there} but not {absent}; the original partition takes"
            f" both: add it (from {url}), or remove the first for a partition by number"
        )
    places = _places(partition)
    original: dict[int, str] = {}
    indices: dict[str, int] = {}
    for line_number, words in _lines(mapping):
        if line_number == 1 and not words[0].isdigit():
            continue  # The names of the columns.
        if len(words) < 3 or not words[0].isdigit():
            raise ValueError(
                f"line {line_number} of '{mapping}' is"
                f" {' '.join(words)!r}, not a number, a number in CelebA and a file in"
                " CelebA: fetch the list again"
            )
        index, file = int(words[0]), words[2]
        if index in original or file in indices:
            repeated = f"image {index}" if index in original else f"file {file!r}"
            raise ValueError(
                f"line {line_number} of '{mapping}' is {' '.join(words)!r}, but an"
                f" earlier line has {repeated}, too: fetch the list again"
            )
        original[index], indices[file] = file, index
    for index, name in enumerate(names):
        if index not in original:
            raise ValueError(
                f"'{mapping}' does not match the images: it has no image"
                f" {index} ({name}): fetch the list again, or remove both lists"
            )
        if original[index] not in places:
            raise ValueError(
                f"'{partition}' does not match '{mapping.name}': it has no"
                f" {original[index]!r}, which is image {index} ({name}): fetch the"
                " lists again, or remove both"
            )
    surplus = sorted(set(original) - set(range(len(names))))
    if surplus:
        raise ValueError(
            f"'{mapping}' does not match the images: there is none for its"
            f" number {surplus[0]}: fetch the list again, or remove both lists"
        )
    chosen = [places[original[index]] for index in range(len(names))]
    for place, split in enumerate(SPLITS):
        number = chosen.count(place)
        least = LEAST_IMAGES[split]
        if number < least:
            raise ValueError(
                f"'{partition}' gives {place} ({split}) to {number} of the images, not"
                f" to at least {least}: fetch the lists again, or remove both"
            )
    return chosen


def _places(path: Path) -> dict[str, int]:
    """The partition of CelebA: 0, 1 or 2 by file."""
    places: dict[str, int] = {}
    for line_number, words in _lines(path):
        if len(words) != 2 or words[1] not in ("0", "1", "2"):
            raise ValueError(
                f"line {line_number} of '{path}' is {' '.join(words)!r}, not a file and"
                " 0, 1 or 2: fetch the list again"
            )
        if words[0] in places:
            raise ValueError(
                f"line {line_number} of '{path}' is {' '.join(words)!r}, but an earlier"
                f" line has file {words[0]!r}, too: fetch the list again"
            )
        places[words[0]] = int(words[1])
    return places


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The lines that are not empty: their numbers, from 1, and their words."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"'{path}' is no text file: fetch the list again") from error
    for line_number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield line_number, line.split()
