"""Distances between two sets of images, given the features of each image.

They judge samples: the two sets need not be of the same size nor in the same order.
`feature_error` is the exception and compares pairs.
"""

import dataclasses
from typing import Any

import numpy as np

from aef_tfp.engine.arguments import checked_count
from aef_tfp.metrics.checks import check_same_shape, checked_features

__all__ = [
    "FeatureStatistics",
    "KernelDistance",
    "feature_error",
    "frechet_distance",
    "kernel_distance",
]

# Kernel values at once: 128 MB.
_KERNEL_ENTRIES = 2**24


# Two arrays have no single truth value, so a generated `==` could only fail.
@dataclasses.dataclass(frozen=True, eq=False)
class FeatureStatistics:
    """Mean and covariance of the features of a set of images.

    Example:
        >>> FeatureStatistics.of([[0.0], [2.0]]).covariance
        array([[2.]])

    Args:
        mean: `[k]`, float64.
        covariance: `[k, k]`, float64, symmetric and positive semidefinite; the sum of
            squares is divided by `num_images - 1`.
        num_images: How many images they are made of. The Frechet distance is biased
            upwards, the more the fewer images there are: compare numbers of equal
            `num_images` only.

    Raises:
        ValueError: If the shapes of mean and covariance do not fit.
    """

    mean: np.ndarray
    covariance: np.ndarray
    num_images: int

    def __post_init__(self) -> None:
        """Checks the shapes."""
        if self.mean.ndim != 1 or self.covariance.shape != 2 * self.mean.shape:
            raise ValueError(
                "mean and covariance must have shapes [k] and [k, k], got "
                f"{list(self.mean.shape)} and {list(self.covariance.shape)}; use "
                "FeatureStatistics.of(features)."
            )

    @classmethod
    def of(cls, features: Any) -> "FeatureStatistics":
        """Computes them in float64.

        Args:
            features: `[n, k]`, n at least 2.

        Raises:
            ValueError: If the shape is another or a value is not finite.
        """
        features = checked_features("features", features)
        mean = features.mean(axis=0)
        deviations = features - mean
        covariance = deviations.T @ deviations / (len(features) - 1)
        return cls(mean, covariance, len(features))


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """The squared Frechet distance of two normal distributions.

        |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))

    With C = R R^T for both, the trace of the root is the sum of the singular values of
    R_a^T R_b. No root is taken of an eigenvalue that is zero but for rounding, so
    singular covariances (fewer images than features) lose no digits.

    Example:
        >>> a = FeatureStatistics.of([[0.0], [2.0]])
        >>> frechet_distance(a, FeatureStatistics.of([[3.0], [5.0]]))
        9.0

    Args:
        a: Statistics of one set.
        b: Statistics of the other set, in the same features.

    Returns:
        At least 0, and 0 for equal statistics. It is called FID only in the features
        of the published Inception network.

    Raises:
        ValueError: If the features of `a` and `b` differ in number.

    References: Dowson and Landau, "The Frechet distance between multivariate normal
    distributions", 1982; Heusel et al., "GANs Trained by a Two Time-Scale Update Rule
    Converge to a Local Nash Equilibrium" (arXiv:1706.08500).
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(
            f"a and b must have equally many features, got {len(a.mean)} and "
            f"{len(b.mean)}; extract both with the same feature model."
        )
    product = _root(a.covariance).T @ _root(b.covariance)
    root_trace = np.linalg.svd(product, compute_uv=False).sum()
    traces = np.trace(a.covariance) + np.trace(b.covariance)
    distance = np.square(a.mean - b.mean).sum() + traces - 2.0 * root_trace
    return max(0.0, float(distance))


@dataclasses.dataclass(frozen=True)
class KernelDistance:
    """The kernel distance, and how it was estimated.

    Args:
        value: Mean over the subsets; its expectation is 0 for equal distributions, so
            it can be negative.
        standard_error: Of the value, over other images: by the jackknife over all
            images of both sets; None if one has but two.
        deviation: Standard deviation over the subsets, which papers print; 0 for one.
            It is that of one subset's estimate, not the error of the mean, and is not
            known if a subset holds all images: then there is but one.
        subset_size: Images of each set in one subset.
        num_subsets: How many subsets were drawn.
    """

    value: float
    standard_error: float | None
    deviation: float
    subset_size: int
    num_subsets: int


def kernel_distance(
    features_a: Any,
    features_b: Any,
    num_subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 0,
) -> KernelDistance:
    """The squared maximum mean discrepancy under a cubic kernel (KID).

        k(x, y) = (x . y / k + 1)^3
        MMD^2 = mean_{i != j} k(a_i, a_j) + mean_{i != j} k(b_i, b_j)
                - 2 mean_{i, j} k(a_i, b_j)

    It is unbiased: other than the Frechet distance, it does not depend on the number
    of images.

    Example:
        >>> a = np.eye(4)
        >>> kernel_distance(a, a + 1.0, num_subsets=5).subset_size
        4

    Args:
        features_a: `[n, k]`, n at least 2.
        features_b: `[m, k]`, m at least 2.
        num_subsets: Random subsets to average over, at least 1.
        subset_size: Images of each set per subset, at least 2, drawn without
            replacement; at most n and m are taken. With all images of both sets there
            is one subset.
        seed: Seed of the subsets.

    Returns:
        Mean, standard error and deviation, with the subset size that was used. The
        jackknife is a first-order estimate, and tends to be too large if the two
        distributions are nearly equal.

    Raises:
        ValueError: If the features cannot be compared or a count is out of range.

    Reference: Binkowski et al., "Demystifying MMD GANs" (arXiv:1801.01401).
    """
    features_a = checked_features("features_a", features_a)
    features_b = checked_features("features_b", features_b)
    check_same_shape("features_a", features_a, "features_b", features_b)
    num_subsets = checked_count("num_subsets", num_subsets)
    subset_size = checked_count("subset_size", subset_size, least=2)
    size = min(subset_size, len(features_a), len(features_b))
    if size == len(features_a) == len(features_b):
        num_subsets = 1
    rng = np.random.default_rng(seed)
    values = np.array(
        [
            _squared_discrepancy(
                features_a[rng.choice(len(features_a), size, replace=False)],
                features_b[rng.choice(len(features_b), size, replace=False)],
            )
            for _ in range(num_subsets)
        ]
    )
    deviation = float(values.std(ddof=1)) if num_subsets > 1 else 0.0
    error = _jackknife_error(features_a, features_b)
    return KernelDistance(float(values.mean()), error, deviation, size, num_subsets)


def feature_error(features_a: Any, features_b: Any) -> np.ndarray:
    """Mean squared error between the features of paired images.

    In Inception features, the mean over the images is the IFE of the AEF paper
    (appendix B), which judges reconstructions and denoising.

    Example:
        >>> feature_error([[0.0, 0.0], [1.0, 1.0]], [[0.0, 2.0], [1.0, 1.0]])
        array([2., 0.])

    Args:
        features_a: `[n, k]`, n at least 2.
        features_b: `[n, k]`, of the same images in the same order.

    Returns:
        `[n]` float64, the mean over the k features of each pair.

    Raises:
        ValueError: If the features are not pairs.
    """
    features_a = checked_features("features_a", features_a)
    features_b = checked_features("features_b", features_b)
    check_same_shape("features_a", features_a, "features_b", features_b, pairs=True)
    return np.square(features_a - features_b).mean(axis=1)


def _root(covariance: np.ndarray) -> np.ndarray:
    """Returns R with `covariance = R R^T`, of as many columns as the rank."""
    eigenvalues, vectors = np.linalg.eigh(covariance)
    # Rounding leaves eigenvalues of either sign where there should be none. The root of
    # those below this bound would be larger than all other errors.
    bound = len(covariance) * np.finfo(np.float64).eps * max(eigenvalues[-1], 0.0)
    kept = eigenvalues > bound
    return vectors[:, kept] * np.sqrt(eigenvalues[kept])


def _squared_discrepancy(a: np.ndarray, b: np.ndarray) -> float:
    """The unbiased estimate of MMD^2 from `[m, k]` and `[m, k]`."""
    m = len(a)

    def mean_of_others(x: np.ndarray) -> float:
        values = _kernel(x, x)
        np.fill_diagonal(values, 0.0)
        return values.sum() / (m * (m - 1))

    return mean_of_others(a) + mean_of_others(b) - 2.0 * _kernel(a, b).mean()


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1.0) ** 3


def _jackknife_error(a: np.ndarray, b: np.ndarray) -> float | None:
    """Standard error of the estimate of MMD^2 from all of `[n, k]` and `[m, k]`.

    From how much it changes when each image in turn is left out.
    """
    variance = 0.0
    between = _kernel_sums(a, b), _kernel_sums(b, a)
    for x, of_others, y in ((a, between[0], b), (b, between[1], a)):
        count = len(x)
        if count < 3:
            # Of one image that is left there are no pairs.
            return None
        within = _kernel_sums(x, x) - (np.square(x).mean(axis=1) + 1.0) ** 3
        left = (within.sum() - 2.0 * within) / ((count - 1) * (count - 2))
        left -= 2.0 * (of_others.sum() - of_others) / ((count - 1) * len(y))
        variance += (count - 1) / count * np.square(left - left.mean()).sum()
    return float(np.sqrt(variance))


def _kernel_sums(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Sums of k(x_i, y_j) over j, `[n]`, a few rows at a time."""
    rows = max(1, _KERNEL_ENTRIES // len(y))
    return np.concatenate(
        [_kernel(x[i : i + rows], y).sum(axis=1) for i in range(0, len(x), rows)]
    )
