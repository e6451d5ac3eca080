"""The data sets by name: what each one is, how it is split, how it is trained.

Pure Python: a command line can list the names without importing TensorFlow.
"""

import dataclasses
import difflib
from typing import Any, Literal

__all__ = [
    "CELEBA_MASK_HQ_URL",
    "CELEBA_URL",
    "DATASETS",
    "DatasetInfo",
    "dataset_info",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """The facts of one data set of images, and the settings its presets begin with.

    The first six have no default; the settings of training are by default those of the
    paper for the MNIST-like sets (Appendix D.5).

    Example:
        >>> dataset_info("digits").num_levels
        17

    Args:
        name: The name in this package, and the first part of the names of presets:
            without a hyphen.
        tfds_name: The name of the TFDS builder, with its configuration if it has
            several: `emnist/letters`. Empty if `source` is not "tfds".
        image_shape: `(H, W, C)`, as the model sees the images: after `crop`, resizing
            and `transpose`. `(0, 0, 0)` if the images of the user decide; the `info`
            of loaded `Splits` has the true shape.
        num_levels: How many values a pixel can take: 0 to `num_levels - 1`.
        logit_lambda: The lambda of eq. 19, in [0, 0.5). It keeps the logit of a
            pixel finite: 1e-6 for the MNIST-like sets, 0.05 for colour photographs.
        description: One line.
        source: Where the images come from: a TFDS builder, a folder of image files, or
            a NumPy file.
        embedded: Whether the images come with an installed package, so that nothing
            is ever downloaded.
        manual: What a person must fetch, from where, and where to put it, if nothing
            downloads the images; `{directory}` stands for the folder of TFDS data
            sets. None if TFDS downloads them.
        train_split: The TFDS split of the training images, and of the validation images
            if they have none of their own.
        validation_split: The TFDS split of the validation images; None if a part of
            `train_split` is kept for validation.
        test_split: The TFDS split of the test images.
        validation_fraction: The share of `train_split`, from its end, that is kept
            for validation if `validation_split` is None: in (0, 1), a whole number of
            percent.
        crop: `(top, left, height, width)` of the part to cut out of every stored image,
            then resized to `image_shape` (bicubic, antialiased, rounded to uint8);
            None takes the stored images as they are.
        transpose: Whether the stored images have rows and columns exchanged.
        labelled: Whether the images have classes; of the user's own, the files say it.
        flips: Whether training images are flipped left to right at random: true of
            faces, whose mirror image is as good a face.
        networks: The kind of encoder and decoder: small convolutional networks, or deep
            residual ones.
        latent_dims: The numbers of latents with presets, ascending.
        batch_size: Images per step.
        learning_rate: Step size of Adam.
        iterations: Training steps in all.
        validation_interval: Steps between two validations.
        patience: Stop after this many steps without a better validation loss; 0 never
            stops.
    """

    name: str
    tfds_name: str
    image_shape: tuple[int, int, int]
    num_levels: int
    logit_lambda: float
    description: str
    source: Literal["tfds", "folder", "npz"] = "tfds"
    embedded: bool = False
    manual: str | None = None
    train_split: str = "train"
    validation_split: str | None = None
    test_split: str = "test"
    validation_fraction: float = 0.1
    crop: tuple[int, int, int, int] | None = None
    transpose: bool = False
    labelled: bool = True
    flips: bool = False
    networks: Literal["conv", "residual"] = "conv"
    latent_dims: tuple[int, ...] = (2, 4, 8, 16, 32)
    batch_size: int = 128
    learning_rate: float = 1e-3
    iterations: int = 100_000
    validation_interval: int = 500
    patience: int = 0


# What several entries share. An entry may say otherwise.
_GREY: dict[str, Any] = {
    "image_shape": (28, 28, 1),
    "num_levels": 256,
    "logit_lambda": 1e-6,
}
_COLOUR: dict[str, Any] = {
    "num_levels": 256,
    "logit_lambda": 0.05,
    "networks": "residual",
    "learning_rate": 1e-4,
}
_FACES: dict[str, Any] = {
    **_COLOUR,
    "labelled": False,
    "flips": True,
    "validation_split": "validation",
    "latent_dims": (64, 128, 256),
    "iterations": 1_000_000,
    "patience": 20_000,
}
_FACES_32: dict[str, Any] = {
    **_FACES,
    "image_shape": (32, 32, 3),
    "batch_size": 64,
}
_FACES_64: dict[str, Any] = {
    **_FACES,
    "image_shape": (64, 64, 3),
    "batch_size": 16,
    "latent_dims": (64, 128, 256, 512),
}
_IMAGENET: dict[str, Any] = {
    **_COLOUR,
    "image_shape": (32, 32, 3),
    "latent_dims": (128, 256),
    "batch_size": 16,
    "iterations": 2_000_000,
    "patience": 100_000,
}
CELEBA_MASK_HQ_URL = "https://github.com/switchablenorms/CelebAMask-HQ"
CELEBA_URL = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
_CELEBA_HQ_MANUAL = (
    "put the 30,000 image files of CelebA-HQ (0.jpg to 29999.jpg of CelebAMask-HQ,"
    f" {CELEBA_MASK_HQ_URL}, or any others whose names number them in this order) into"
    " {directory}/downloads/manual/celeba_hq, and for the original partition"
    " CelebA-HQ-to-CelebA-mapping.txt (from there, too) and list_eval_partition.txt"
    f" (from CelebA, {CELEBA_URL}) beside them"
)
_FILES_MANUAL = (
    "no code makes this one, so put its files, as TFDS wrote them (dataset_info.json,"
    " features.json, *.tfrecord-*), into {directory}/"
)
# The usual crop of 148 x 148 pixels, in images of half the size.
_CELEBA10K: dict[str, Any] = {
    "tfds_name": "celeba10k",
    "crop": (17, 7, 74, 74),
    "manual": _FILES_MANUAL + "celeba10k/1.0.0",
}
# Of the user's images: the shape, and with it lambda, is taken from them, and so are
# the settings of their presets.
_OWN: dict[str, Any] = {
    "tfds_name": "",
    "image_shape": (0, 0, 0),
    "num_levels": 256,
    "logit_lambda": 0.05,
    "latent_dims": (2, 4, 8, 16, 32, 64, 128, 256),
}

# The one table to read and to extend.
DATASETS: dict[str, DatasetInfo] = {
    info.name: info
    for info in (
        DatasetInfo(
            name="digits",
            tfds_name="digits",
            image_shape=(8, 8, 1),
            num_levels=17,
            logit_lambda=1e-6,
            description="1,797 handwritten digits, bundled with scikit-learn",
            embedded=True,
            # They are few: a shorter run, which stops early.
            batch_size=64,
            iterations=1500,
            validation_interval=100,
            patience=500,
        ),
        DatasetInfo(
            name="mnist",
            tfds_name="mnist",
            description="70,000 handwritten digits",
            **_GREY,
        ),
        DatasetInfo(
            name="fashion_mnist",
            tfds_name="fashion_mnist",
            description="70,000 pictures of clothes, in the format of MNIST",
            **_GREY,
        ),
        DatasetInfo(
            name="kmnist",
            tfds_name="kmnist",
            description="70,000 characters of old Japanese, in the format of MNIST",
            **_GREY,
        ),
        DatasetInfo(
            name="emnist_letters",
            tfds_name="emnist/letters",
            description="103,600 handwritten letters, in the format of MNIST",
            transpose=True,
            **_GREY,
        ),
        DatasetInfo(
            name="cifar10",
            tfds_name="cifar10",
            image_shape=(32, 32, 3),
            description="60,000 photographs of animals and vehicles; not in the paper",
            latent_dims=(64, 128, 256),
            batch_size=64,
            iterations=1_000_000,
            patience=20_000,
            **_COLOUR,
        ),
        DatasetInfo(
            name="celebahq32",
            tfds_name="celeba_hq/32",
            description="30,000 faces of CelebA-HQ at 32 x 32",
            manual=_CELEBA_HQ_MANUAL,
            **_FACES_32,
        ),
        DatasetInfo(
            name="celebahq64",
            tfds_name="celeba_hq/64",
            description="30,000 faces of CelebA-HQ at 64 x 64",
            manual=_CELEBA_HQ_MANUAL,
            **_FACES_64,
        ),
        DatasetInfo(
            name="imagenet32",
            # The resized ImageNet of Chrabaszcz, Loshchilov and Hutter.
            tfds_name="imagenet_resized/32x32",
            description="1,331,167 photographs of 1,000 classes at 32 x 32",
            test_split="validation",
            validation_fraction=0.01,
            **_IMAGENET,
        ),
        DatasetInfo(
            name="celeba10k32",
            description="the first 10,000 faces of CelebA at 32 x 32; not in the paper",
            **_CELEBA10K,
            **_FACES_32,
        ),
        DatasetInfo(
            name="celeba10k64",
            description="the first 10,000 faces of CelebA at 64 x 64; not in the paper",
            **_CELEBA10K,
            **_FACES_64,
        ),
        DatasetInfo(
            name="tiny_imagenet32",
            tfds_name="tiny_imagenet32",
            description="15,000 photographs of 200 classes at 32 x 32; not in the"
            " paper",
            validation_split="validation",
            manual=_FILES_MANUAL + "tiny_imagenet32/1.0.0",
            **_IMAGENET,
        ),
        DatasetInfo(
            name="folder",
            source="folder",
            description="your image files: --data-dir names their folder",
            **_OWN,
        ),
        DatasetInfo(
            name="npz",
            source="npz",
            description="your images in a NumPy file: --data-dir names the .npz",
            **_OWN,
        ),
    )
}
"""Data sets by name."""


def dataset_info(name: str) -> DatasetInfo:
    """The facts of the data set of that name.

    Args:
        name: A key of `DATASETS`.

    Returns:
        Its entry.

    Raises:
        ValueError: If there is no such data set.
    """
    if name in DATASETS:
        return DATASETS[name]
    close = difflib.get_close_matches(str(name), DATASETS, n=1)
    suggestion = f"; did you mean {close[0]!r}?" if close else ""
    raise ValueError(
        f"there is no data set {name!r}, only {', '.join(DATASETS)}{suggestion}"
    )
