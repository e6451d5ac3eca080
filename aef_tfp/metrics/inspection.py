"""What likelihoods do not say: how sharp samples are, and which latents do anything."""

from typing import Any

import numpy as np
import tensorflow as tf

from aef_tfp.metrics.checks import check_finite, check_pixels
from aef_tfp.networks.batching import in_passes
from aef_tfp.records import Record, digest_of

__all__ = ["latent_records", "latent_use", "octave_powers", "sharpness_records"]

# Of images that have an octave.
LEAST_SIDE = 4

# Nats per image from which on a latent counts as in use.
_LEAST_USE = 1.0

# Whose spectra are in memory together.
_IMAGES_AT_ONCE = 256


def octave_powers(images: Any) -> dict[str, np.ndarray]:
    """Returns the power of each image in octaves of spatial frequency.

    Of the mean over channels, less its own mean, under a Hann window, since an image
    does not go on beyond its edges. Frequencies count periods per shorter side of the
    image, in any direction, up to its Nyquist frequency of half the pixels.

    Args:
        images: `[n, H, W, C]`, H and W at least 4.

    Returns:
        `[n]` by the name of the octave, such as `"4_to_8"`, in units of the pixels'
        square.

    Raises:
        ValueError: If the images are too small, or not finite.
    """
    images = np.asarray(images)
    if images.ndim != 4 or min(images.shape[1:3]) < LEAST_SIDE:
        raise ValueError(
            "octaves are those of images [n, H, W, C] with H and W of at least "
            f"{LEAST_SIDE}, got the shape {images.shape}."
        )
    check_finite("images", images, "images")
    parts = [
        _octave_powers(images[start : start + _IMAGES_AT_ONCE])
        for start in range(0, max(1, len(images)), _IMAGES_AT_ONCE)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _octave_powers(images: np.ndarray) -> dict[str, np.ndarray]:
    grey = images.astype(np.float64, copy=False).mean(axis=-1)
    grey -= grey.mean(axis=(1, 2), keepdims=True)
    height, width = grey.shape[1:]
    window = np.outer(np.hanning(height + 2)[1:-1], np.hanning(width + 2)[1:-1])
    power = np.abs(np.fft.fft2(grey * window)) ** 2 / np.sum(window**2) / window.size
    side = min(height, width)
    # Whole numbers, divided last: 49 * (1 / 49) is less than 1, and in no octave.
    vertical, horizontal = (
        np.rint(np.fft.fftfreq(n) * n) * side / n for n in (height, width)
    )
    frequency = np.hypot(vertical[:, None], horizontal[None, :])
    powers, low = {}, 1
    while low < side // 2:
        high = min(2 * low, side // 2)
        # The last octave may be a part of one; the highest frequency belongs to it.
        last = high == side // 2
        within = (frequency >= low) & (frequency <= high if last else frequency < high)
        powers[f"{low}_to_{high}"] = power[:, within].sum(axis=-1)
        low = high
    return powers


def sharpness_records(
    images: Any,
    generated: Any,
    *,
    what: str = "samples",
    prefix: str = "",
    are_pairs: bool = False,
    **facts: Any,
) -> list[Record]:
    """Compares the spectra of two sets of images, octave by octave.

    A ratio of 1 in the highest octaves is as much fine detail as in the images; less is
    blur. Noise counts as detail: look at the images, too.

    Args:
        images: Real images `[n, H, W, C]`, floats in [0, 1], n at least 2.
        generated: Images to be judged, `[m, H, W, C]`, m at least 2.
        what: What those are, for the estimator's description.
        prefix: Of the records' names.
        are_pairs: Whether each generated image was made of the real one in its place,
            as reconstructions are, m = n. Its power then follows that of the other, and
            the ratio has a much smaller error than that of two sets.
        **facts: Other fields of the records.

    Returns:
        Records `power_ratio_4_to_8` and so on: mean power of the generated images over
        that of the real ones, where those have any. The standard error is that over
        both sets, or over the pairs (delta method).

    Raises:
        ValueError: If a set has fewer than 2 images, or their shapes differ, or they
            are not floats in [0, 1].
    """
    shapes = np.shape(images), np.shape(generated)
    first = 0 if are_pairs else 1
    if shapes[0][first:] != shapes[1][first:] or min(shape[0] for shape in shapes) < 2:
        raise ValueError(
            "spectra are compared of 2 images or more of one shape, got images "
            f"{shapes[0]} and {what} {shapes[1]}."
        )
    images, generated = np.asarray(images), np.asarray(generated)
    theirs, ours = octave_powers(images), octave_powers(generated)
    # Of integers beside floats the ratio would be that of the units.
    for name, values in (("images", images), (what, generated)):
        check_pixels(name, values)
    records = []
    for octave in theirs:
        means = [values.mean() for values in (ours[octave], theirs[octave])]
        if not means[1]:
            # All are blank: nothing is a multiple of that.
            continue
        ratio = means[0] / means[1]
        parts = [ours[octave], ratio * theirs[octave]]
        if are_pairs:
            parts = [parts[0] - parts[1]]
        errors = [part.std(ddof=1) / len(part) ** 0.5 for part in parts]
        records.append(
            Record(
                name=f"{prefix}power_ratio_{octave}",
                value=float(ratio),
                standard_error=float(np.linalg.norm(errors) / means[1]),
                estimator=f"power of {what} over that of images, by octaves of spatial "
                "frequency (periods per side)",
                num_images=len(ours[octave]),
                images=digest_of(images),
                **facts,
            )
        )
    return records


def latent_use(model: Any, images: Any) -> np.ndarray:
    """Returns how many nats the decoder's density loses without each latent.

    The entry of one latent is exchanged between the images, in an order of chance that
    is the same for as many images; what the decoder says of the shell moves by

        0.5 |f(z) - f(z')|^2 / sigma(z)^2        summed over entries, mean over images

    A latent that the model does not use loses nothing, whatever its own scale.

    Args:
        model: A model with a chain, `model.has_terms`.
        images: `[n, *event_shape]` as the model takes them, n at least 2; 64 suffice.

    Returns:
        `[latent_dim]`.

    Raises:
        ValueError: If the images do not fit, or there is one only.
    """
    z = model.encode(images)
    if len(z) < 2:
        raise ValueError(
            f"latents are exchanged between 2 images or more, got {len(z)}."
        )
    size = model._latents_per_pass
    loc, scale = in_passes(model.chain.decoded, z, size)
    # Each gets another's, in a random order: neighbours may be of one class, and alike.
    order = np.random.default_rng(0).permutation(len(z))
    partner = np.empty_like(order)
    partner[order] = np.roll(order, 1)
    others = tf.gather(z, partner)
    used = []
    for i in range(model.latent_dim):
        exchanged = tf.concat([z[:, :i], others[:, i : i + 1], z[:, i + 1 :]], axis=-1)
        moved = in_passes(lambda part: model.chain.decoded(part)[0], exchanged, size)
        squares = 0.5 * tf.square((moved - loc) / scale)
        used.append(float(tf.reduce_mean(tf.reduce_sum(squares, axis=-1))))
    return np.array(used)


def latent_records(model: Any, images: Any, **facts: Any) -> list[Record]:
    """Counts the latents that are in use: those that are worth a nat or more.

    Args:
        model: As in `latent_use`.
        images: Likewise.
        **facts: Other fields of the records.

    Returns:
        A record `latents_in_use`; its detail has quantiles of the nats.
    """
    use = latent_use(model, images)
    facts = {"images": digest_of(np.asarray(images)), **facts}
    estimator = (
        "nats that the decoder's density loses when a latent is exchanged between "
        f"images; in use from {_LEAST_USE:g} on"
    )
    return [
        Record(
            name="latents_in_use",
            value=float(np.sum(use >= _LEAST_USE)),
            standard_error=None,
            estimator=estimator,
            num_images=len(images),
            detail=f"of {model.latent_dim}; {_quantiles(use)}",
            **facts,
        )
    ]


def _quantiles(use: np.ndarray) -> str:
    low, middle, high = np.quantile(use, (0.1, 0.5, 0.9))
    return f"10, 50, 90 % of them use up to {low:.1f}, {middle:.1f}, {high:.1f} nats"
