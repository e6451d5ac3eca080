"""The handwritten digits that scikit-learn bundles, as a TFDS data set."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

__all__ = ["Digits"]

_NUM_TRAIN = 1497
_NUM_TEST = 300


class Digits(tfds.core.GeneratorBasedBuilder):
    """1,797 images of handwritten digits, 8 x 8 pixels of 17 grey levels (0 to 16).

    They are the test part of the UCI set, as bundled with scikit-learn; preparing them
    needs no network. `test` holds the last 300 images and `train` the 1,497 before
    them, in the order of the file. The file is ordered in blocks by writer, so most
    test images are by writers of whom `train` has none: a harder test, and a more
    telling one, than a random choice would be.

    TFDS stores the images of a split in the order of a hash, so any slice of `train`,
    such as `train[90%:]`, is as good as a random choice of images.

    Importing this module is what makes the name known to TFDS.

    Example:
        >>> import tensorflow_datasets as tfds
        >>> import aef_tfp.data.digits
        >>> len(tfds.load("digits", split="test"))
        300
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "The first version."}  # noqa: RUF012 (TFDS's name)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=(
                "Handwritten digits of 13 writers: 32 x 32 bitmaps, of which every"
                " 4 x 4 block was counted to one of 17 grey levels, 0 to 16."
            ),
            features=tfds.features.FeaturesDict(
                {
                    # PNG is lossless: 0 to 16 stay exactly that.
                    "image": tfds.features.Image(
                        shape=(8, 8, 1), dtype=np.uint8, encoding_format="png"
                    ),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
            homepage=(
                "https://archive.ics.uci.edu/dataset/80/"
                "optical+recognition+of+handwritten+digits"
            ),
            citation="""@misc{alpaydin1998optical,
  author = {Alpaydin, Ethem and Kaynak, Cenk},
  title = {Optical Recognition of Handwritten Digits},
  year = {1998},
  howpublished = {UCI Machine Learning Repository},
  doi = {10.24432/C50P49}
}""",
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        del dl_manager  # There is nothing to download.
        return {
            "train": self._generate_examples(0, _NUM_TRAIN),
            "test": self._generate_examples(_NUM_TRAIN, _NUM_TRAIN + _NUM_TEST),
        }

    def _generate_examples(
        self, start: int, stop: int
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        # Only whoever prepares the data needs scikit-learn, which is slow to import.
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        images = images.reshape(-1, 8, 8, 1).astype(np.uint8)
        for index in range(start, stop):
            yield index, {"image": images[index], "label": int(labels[index])}
