"""Records of image quality: distances between sets, and errors of denoising."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from aef_tfp.metrics.features import extract_features, feature_model_name
from aef_tfp.metrics.frechet import (
    FeatureStatistics,
    feature_error,
    frechet_distance,
    kernel_distance,
)
from aef_tfp.metrics.inception import GRAPH_SHA256
from aef_tfp.metrics.records import records_of_means
from aef_tfp.records import Record, digest_of

__all__ = ["as_levels", "denoising_records", "distance_records"]

FeatureKind = Literal["inception", "classifier"]


def as_levels(images: Any, num_levels: int | None) -> np.ndarray:
    """Returns images as a file would hold them: rounded down to levels, in [0, 1].

    The model's images are continuous, the data's are not; a network would see the
    difference. Level v of L becomes v / (L - 1).

    Args:
        images: `[n, H, W, C]`: floats in [0, 1], or integers below `num_levels`.
        num_levels: L; None leaves floats as they are.
    """
    images = np.asarray(images)
    if num_levels is None:
        return images
    if images.dtype.kind == "f":
        levels = np.floor(images * num_levels)
        # NaN passes, for the metric to count.
        images = np.clip(levels, 0, num_levels - 1)
    return (images / (num_levels - 1)).astype(np.float32)


def distance_records(
    feature_model: Callable[[Any], Any],
    kind: FeatureKind,
    images: Any,
    generated: Any,
    *,
    split: str,
    what: str = "samples",
    prefix: str = "",
    seed: int = 0,
    progress: Callable[[int], Any] | None = None,
    **facts: Any,
) -> list[Record]:
    """Compares two sets of images by the Frechet and the kernel distance.

    Args:
        feature_model: See `FeatureModel`.
        kind: Which features they are; only Inception's make an FID.
        images: Real images `[n, H, W, C]`, floats in [0, 1].
        generated: Images to be judged, `[m, H, W, C]`.
        split: Which images the real ones are.
        what: What the others are, for the estimator's description.
        prefix: Of the records' names.
        seed: Seed of the subsets of the kernel distance.
        progress: Called with the number of images done.
        **facts: Other fields of the records.

    Returns:
        Records `frechet_<kind>_distance` and `kernel_<kind>_distance`; the latter's
        standard error is that of the value, over other images. The former's detail
        warns of a set that has fewer images than features.

    Raises:
        ValueError: If a set has fewer than 2 images or images that are not finite, or
            the shapes differ.
    """
    reference = extract_features(feature_model, images, progress=progress)
    others = extract_features(
        feature_model,
        generated,
        progress=progress and (lambda done: progress(len(reference) + done)),
    )
    sets = f"{len(others)} {what} against {len(reference)} {split} images"
    name = feature_model_name(feature_model)
    kernel = kernel_distance(reference, others, seed=seed)
    frechet = frechet_distance(
        FeatureStatistics.of(reference), FeatureStatistics.of(others)
    )
    facts = {
        "split": split,
        "num_images": len(others),
        "images": digest_of(np.asarray(images)),
        "features": name,
        "seed": seed,
        **facts,
    }
    return [
        Record(
            name=f"{prefix}frechet_{kind}_distance",
            value=frechet,
            standard_error=None,
            estimator=f"{_title(feature_model, kind)}, {sets}",
            detail=_few_images(reference, others),
            **facts,
        ),
        Record(
            name=f"{prefix}kernel_{kind}_distance",
            value=kernel.value,
            standard_error=kernel.standard_error,
            estimator=(
                f"kernel distance (KID) in {kind} features, mean over "
                f"{kernel.num_subsets} subsets of {kernel.subset_size}, standard error "
                f"by the jackknife over images, {sets}"
            ),
            **facts,
        ),
    ]


def denoising_records(
    clean: Any,
    denoised: Any,
    *,
    noise_std: float,
    feature_model: Callable[[Any], Any] | None = None,
    kind: FeatureKind | None = None,
    progress: Callable[[int], Any] | None = None,
    **facts: Any,
) -> list[Record]:
    """Errors of reconstructions, denoised ones first of all (appendix B).

    Args:
        clean: Images without noise, `[n, H, W, C]` in [0, 1].
        denoised: Reconstructions of their noisy versions.
        noise_std: Standard deviation of the noise, for the description; 0 for none.
        feature_model: For the feature error (IFE with Inception features), or None.
        kind: Which features they are.
        progress: Called with the number of images done.
        **facts: Other fields of the records.

    Returns:
        Records `reconstruction_error`, the mean squared error of pixels in [0, 1], and
        `<kind>_feature_error`, that of features.

    Raises:
        ValueError: If the images are not pairs, or not finite.
    """
    of = "of reconstructions and images, no noise"
    if noise_std:
        of = (
            "of denoised and clean images, noise of deviation "
            f"{noise_std:g}, kept in [0, 1]"
        )
    clean, denoised = (np.asarray(x) for x in (clean, denoised))
    facts = {"images": digest_of(clean), **facts}
    flat = [x.reshape(len(x), -1) for x in (clean, denoised)]
    errors = {"reconstruction_error": feature_error(*flat)}
    records = records_of_means(
        errors,
        estimator=f"mean squared error of pixels {of}",
        **facts,
    )
    if feature_model is None:
        return records
    features = [
        extract_features(feature_model, images, progress=progress)
        for images in (clean, denoised)
    ]
    return records + records_of_means(
        {f"{kind}_feature_error": feature_error(*features)},
        estimator=f"mean squared error of {kind} features {of}",
        features=feature_model_name(feature_model),
        **facts,
    )


def _few_images(*sets: np.ndarray) -> str:
    """A warning, if a covariance has few of its dimensions: much is bias then."""
    fewest = min(map(len, sets))
    num_features = sets[0].shape[1]
    # As many as features lack one dimension, and are what papers take at least.
    if fewest >= num_features:
        return ""
    return (
        f"TOO FEW IMAGES: {fewest} for the covariance of {num_features} features, so "
        f"the distance is too high; take {num_features} or more of both sets "
        "(--num-frechet-images), or the kernel distance"
    )


def _title(feature_model: Any, kind: FeatureKind) -> str:
    published = getattr(feature_model, "sha256", None) == GRAPH_SHA256
    if kind == "inception" and published:
        return "FID, Frechet distance in Inception features"
    return f"Frechet distance in {kind} features (no FID)"
