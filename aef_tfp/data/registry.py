"""The data sets by name: what each one is, and how it is split.

Pure Python: a command line can list the names without importing TensorFlow.
"""

import dataclasses
import difflib

__all__ = ["DATASETS", "DatasetInfo", "dataset_info"]


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """The facts of one data set of images.

    Example:
        >>> dataset_info("digits").num_levels
        17

    Args:
        name: The name in this package.
        tfds_name: The name of the TFDS builder.
        image_shape: `(H, W, C)`.
        num_levels: How many values a pixel can take: 0 to `num_levels - 1`.
        logit_lambda: The lambda of eq. 19, in [0, 0.5). It keeps the logit of a
            pixel finite: 1e-6 for the MNIST-like sets, 0.05 for colour photographs.
        description: One line.
        embedded: Whether the images come with an installed package, so that nothing
            is ever downloaded.
        train_split: The TFDS split that training and validation share.
        test_split: The TFDS split of the test images.
        validation_fraction: The share of `train_split`, from its end, that is kept
            for validation: in (0, 1), a whole number of percent.
    """

    name: str
    tfds_name: str
    image_shape: tuple[int, int, int]
    num_levels: int
    logit_lambda: float
    description: str
    embedded: bool = False
    train_split: str = "train"
    test_split: str = "test"
    validation_fraction: float = 0.1


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
        ),
        DatasetInfo(
            name="mnist",
            tfds_name="mnist",
            image_shape=(28, 28, 1),
            num_levels=256,
            logit_lambda=1e-6,
            description="70,000 handwritten digits",
        ),
        DatasetInfo(
            name="fashion_mnist",
            tfds_name="fashion_mnist",
            image_shape=(28, 28, 1),
            num_levels=256,
            logit_lambda=1e-6,
            description="70,000 pictures of clothes, in the format of MNIST",
        ),
        DatasetInfo(
            name="kmnist",
            tfds_name="kmnist",
            image_shape=(28, 28, 1),
            num_levels=256,
            logit_lambda=1e-6,
            description="70,000 characters of old Japanese, in the format of MNIST",
        ),
    )
}


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
