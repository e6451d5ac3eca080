"""Records of image quality: distances between sets, and errors of denoising."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import numpy as np

from aef_tfp.metrics.checks import check_pixels, check_same_shape
from aef_tfp.metrics.features import extract_features, feature_model_name, features_of
from aef_tfp.metrics.frechet import (
    FeatureStatistics,
    frechet_distance,
    kernel_distance,
)
from aef_tfp.metrics.inception import GRAPH_SHA256
from aef_tfp.metrics.records import records_of_means
from aef_tfp.records import Record, digest_of

__all__ = ["as_levels", "denoising_records", "distance_records"]

FeatureKind = Literal["inception", "classifier"]

# Images whose errors are computed at once.
_PAIRS = 256
_FEATURE_BATCH = 100


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
        # In one copy: they may be many.
        images = np.asarray(images * num_levels)
        np.floor(images, out=images)
        # NaN passes, for the metric to count.
        np.clip(images, 0, num_levels - 1, out=images)
    return np.divide(images, num_levels - 1, dtype=np.float32)


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
        ValueError: If the images are not pairs, or not floats in [0, 1].
    """
    clean, denoised = (np.asarray(x) for x in (clean, denoised))
    check_same_shape("clean", clean, "denoised", denoised, pairs=True)
    # Errors of integers would be those of another unit.
    for name, images in (("clean", clean), ("denoised", denoised)):
        check_pixels(name, images)
    starts = range(0, len(clean), _PAIRS)
    return records_of_pairs(
        ((clean[i : i + _PAIRS], denoised[i : i + _PAIRS]) for i in starts),
        noise_std=noise_std,
        feature_model=feature_model,
        kind=kind,
        progress=progress,
        images=digest_of(clean),
        **facts,
    )


def records_of_pairs(
    pairs: Iterable[tuple[np.ndarray, np.ndarray]],
    *,
    noise_std: float,
    feature_model: Callable[[Any], Any] | None = None,
    kind: FeatureKind | None = None,
    progress: Callable[[int], Any] | None = None,
    **facts: Any,
) -> list[Record]:
    """Makes the `denoising_records` of images that are never all in memory.

    Args:
        pairs: Clean images `[b, H, W, C]` and what became of them, some at a time.
        noise_std: As in `denoising_records`, like all others.
        feature_model: Likewise.
        kind: Likewise.
        progress: Likewise.
        **facts: Likewise; `images` is the digest of all clean images.
    """
    of = "of reconstructions and images, no noise"
    if noise_std:
        of = (
            "of denoised and clean images, noise of deviation "
            f"{noise_std:g}, kept in [0, 1]"
        )
    pixels: list[np.ndarray] = []
    features: list[np.ndarray] = []
    done = 0
    # A feature model is to get the batches that it gets of a whole set.
    size = _PAIRS if feature_model is None else _FEATURE_BATCH
    for clean, denoised in _regrouped(pairs, size):
        pixels.append(_errors(clean, denoised))
        done += len(clean)
        if feature_model is None:
            continue
        # Where the first ones are fewer, there are no others.
        size = size if features else len(clean)
        batches = []
        for name, batch in (("clean", clean), ("denoised", denoised)):
            check_pixels(name, batch)
            batches.append(features_of(feature_model, batch, size))
        features.append(_errors(*batches))
        if progress is not None:
            progress(done)
    records = records_of_means(
        {"reconstruction_error": np.concatenate(pixels or [np.empty(0)])},
        estimator=f"mean squared error of pixels {of}",
        **facts,
    )
    if feature_model is None:
        return records
    return records + records_of_means(
        {f"{kind}_feature_error": np.concatenate(features)},
        estimator=f"mean squared error of {kind} features {of}",
        features=feature_model_name(feature_model),
        **facts,
    )


def _errors(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mean squared error of each pair, `[b]`."""
    a, b = (np.asarray(x, np.float64).reshape(len(x), -1) for x in (a, b))
    return np.square(a - b).mean(axis=1)


def _regrouped(
    pairs: Iterable[tuple[np.ndarray, np.ndarray]], size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The same pairs, `size` at a time; the last ones may be fewer."""
    rest: tuple[np.ndarray, ...] = ()
    for pair in pairs:
        rest = (
            tuple(map(np.concatenate, zip(rest, pair, strict=True))) if rest else pair
        )
        while len(rest[0]) >= size:
            yield rest[0][:size], rest[1][:size]
            rest = tuple(part[size:] for part in rest)
    if rest and len(rest[0]):
        yield rest[0], rest[1]


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
