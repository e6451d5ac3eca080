"""Spectra of images against known waves, and latents that do something or nothing."""

import numpy as np
import pytest
import tensorflow as tf

from aef_tfp import metrics
from aef_tfp.models import ExpandedAEF


def wave(side, frequency, *, channels=3, phase=0.3):
    points = np.arange(side) / side
    rows = np.sin(2 * np.pi * frequency * points + phase)
    return np.repeat(np.tile(rows, (side, 1))[None, ..., None], channels, axis=-1)


@pytest.mark.parametrize(
    ("frequency", "octave"),
    [(1.5, "1_to_2"), (3, "2_to_4"), (6, "4_to_8"), (12, "8_to_16")],
)
def test_a_wave_has_its_power_in_its_octave(frequency, octave):
    powers = metrics.octave_powers(wave(32, frequency))
    assert list(powers) == ["1_to_2", "2_to_4", "4_to_8", "8_to_16"]
    total = sum(powers.values())
    # The window widens a line by two frequencies.
    assert powers[octave] > 0.6 * total
    # Half the amplitude's square.
    np.testing.assert_allclose(total, 0.5, rtol=0.3)


def test_octaves_end_at_the_nyquist_frequency_of_the_shorter_side():
    assert list(metrics.octave_powers(np.zeros((1, 28, 40, 1)))) == [
        "1_to_2",
        "2_to_4",
        "4_to_8",
        "8_to_14",
    ]
    checkers = np.indices((8, 8)).sum(axis=0)[None, ..., None] % 2
    upright = np.tile([0.0, 1.0], (8, 4))[None, ..., None]
    for name, image in (("none", checkers), ("2_to_4", upright)):
        powers = metrics.octave_powers(image)
        # The diagonal of a grid is beyond what all directions have.
        assert (max(powers, key=powers.get) == name) or name == "none"
        assert (powers["2_to_4"] > 0.05) == (name != "none")


@pytest.mark.parametrize("side", [28, 41, 49, 98])
def test_whole_frequencies_are_in_the_octaves_that_they_begin(side):
    # Unrounded: 49 * (1 / 49) is less than 1, and 41 * (20 / 41) more than 20.
    # Of equal power at all frequencies, for the window takes the corner out.
    points = np.zeros((side, side))
    points[side // 2, side // 2], points[0, 0] = 1.0, -1.0
    powers = metrics.octave_powers(points[None, ..., None])
    places = np.rint(np.fft.fftfreq(side) * side)
    squares = places[:, None] ** 2 + places[None, :] ** 2
    of_one = [
        power[0]
        / np.sum(
            (squares >= low**2)
            & (squares <= high**2 if high == side // 2 else squares < high**2)
        )
        for (low, high), power in (
            (map(int, name.split("_to_")), power) for name, power in powers.items()
        )
    ]
    np.testing.assert_allclose(of_one, of_one[-1], rtol=1e-3)


def test_turned_images_have_equal_spectra(rng):
    images = rng.uniform(size=(2, 16, 16, 1))
    ours, theirs = map(
        metrics.octave_powers, (images, np.transpose(images, (0, 2, 1, 3)))
    )
    for octave in ours:
        np.testing.assert_allclose(ours[octave], theirs[octave])


def blurred(images):
    return (images + np.roll(images, 1, axis=1) + np.roll(images, 1, axis=2)) / 3


def test_blur_shows_in_the_highest_octave(rng):
    images = rng.uniform(size=(200, 16, 16, 1))
    same = metrics.sharpness_records(images[:100], images[100:], split="test")
    soft = metrics.sharpness_records(images[:100], blurred(images[100:]), split="test")
    for record in same:
        assert abs(record.value - 1.0) < 4 * record.standard_error < 1.0
    assert soft[-1].name == "power_ratio_4_to_8"
    assert soft[-1].value < 0.5 < soft[0].value
    # Of the error: the deviation of the ratio over other images.
    ratios = [
        metrics.sharpness_records(part[:20], part[20:], split="test")[-1]
        for part in np.split(images, 5)
    ]
    spread = np.std([record.value for record in ratios])
    expected = np.mean([record.standard_error for record in ratios])
    assert 0.3 < spread / expected < 3.0


def test_the_error_of_pairs_is_that_of_a_bootstrap(rng):
    images = rng.uniform(size=(200, 16, 16, 1)) * rng.uniform(0.1, 1.0, (200, 1, 1, 1))
    made = blurred(images) * rng.uniform(0.95, 1.0, (200, 1, 1, 1))
    pairs = metrics.sharpness_records(images, made, are_pairs=True, split="test")
    sets = metrics.sharpness_records(images, made, split="test")
    ours, theirs = metrics.octave_powers(made), metrics.octave_powers(images)
    for pair, other in zip(pairs, sets, strict=True):
        octave = pair.name.removeprefix("power_ratio_")
        drawn = rng.integers(0, 200, (1000, 200))
        ratios = ours[octave][drawn].mean(axis=1) / theirs[octave][drawn].mean(axis=1)
        assert pair.standard_error == pytest.approx(ratios.std(), rel=0.15)
        assert pair.standard_error < 0.5 * other.standard_error
        assert pair.value == other.value


def test_pairs_are_equally_many(rng):
    images = rng.uniform(size=(4, 16, 16, 1))
    with pytest.raises(ValueError, match="2 images or more of one shape"):
        metrics.sharpness_records(images, images[:3], are_pairs=True, split="test")


@pytest.mark.parametrize("shape", [(1, 16, 16, 1), (4, 8, 8, 1), (4, 256)])
def test_spectra_of_unlike_sets_are_refused(shape, rng):
    images = rng.uniform(size=(4, 16, 16, 1))
    with pytest.raises(ValueError, match="2 images or more of one shape"):
        metrics.sharpness_records(images, np.zeros(shape), split="test")


def test_integers_are_no_images_of_floats(rng):
    floats = rng.uniform(size=(4, 8, 8, 1))
    integers = (255 * floats).astype(np.uint8)
    facts = {"split": "test"}
    for images, generated, name in (
        (integers, floats, "images"),
        (floats, integers, "samples"),
    ):
        message = rf"^{name} must be floats in \[0, 1\], got uint8; divide"
        with pytest.raises(ValueError, match=message):
            metrics.sharpness_records(images, generated, **facts)
    with pytest.raises(ValueError, match=r"^clean must be floats"):
        metrics.denoising_records(integers, floats, noise_std=0.1, **facts)
    with pytest.raises(ValueError, match=r"^denoised must lie in \[0, 1\]"):
        metrics.denoising_records(floats, 255 * floats, noise_std=0.1, **facts)
    with pytest.raises(ValueError, match="at least 2 images, got 0"):
        metrics.denoising_records(floats[:0], floats[:0], noise_std=0.1, **facts)


def test_blank_images_have_no_ratio(rng):
    images = rng.uniform(size=(4, 8, 8, 1))
    blank = np.zeros_like(images)
    assert metrics.sharpness_records(blank, images, split="test") == []
    records = metrics.sharpness_records(images, blank, split="test")
    assert [record.value for record in records] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 3, 8, 1)), "H and W of at least 4"),
        (np.zeros((2, 64)), "H and W of at least 4"),
        (np.full((2, 8, 8, 1), np.nan), "not finite|NaN"),
    ],
)
def test_what_has_no_octaves_is_refused(images, message):
    with pytest.raises(ValueError, match=message):
        metrics.octave_powers(images)


@pytest.fixture(scope="module")
def half_used():
    """A model whose decoder reads the first of two latents only."""
    model = ExpandedAEF(
        (6,),
        2,
        encoder="dense",
        decoder="dense",
        core_flow="none",
        prior_flow="none",
        num_levels=None,
        decoder_scale="fixed",
    )
    kernel, *_ = model.decoder.network.weights
    kernel.assign(tf.concat([kernel[:1] * 30.0, tf.zeros_like(kernel[1:])], axis=0))
    return model


def test_a_latent_that_the_decoder_does_not_read_is_not_in_use(half_used, rng):
    x = rng.normal(size=(32, 6)).astype(np.float32)
    use = metrics.latent_use(half_used, x)
    assert use[1] == 0.0
    (record,) = metrics.latent_records(half_used, x, split="test")
    assert record.value == float(use[0] >= 1.0)
    assert record.detail.startswith("of 2; ")


def test_use_is_half_the_squared_distance_to_another_images_mean(half_used, rng):
    # With a deviation of 1. Two images have but one other each.
    x = rng.normal(size=(2, 6)).astype(np.float32)
    z = half_used.encode(x).numpy()
    moved = np.stack([z[::-1, 0], z[:, 1]], axis=-1)
    means = [half_used.chain.decoded(tf.constant(v))[0].numpy() for v in (z, moved)]
    expected = 0.5 * np.sum((means[0] - means[1]) ** 2, axis=-1).mean()
    np.testing.assert_allclose(metrics.latent_use(half_used, x)[0], expected, rtol=1e-5)


def test_latents_are_exchanged_between_classes_too(half_used, rng):
    # In order of two classes, neighbours are of one class, but for two pairs of 32.
    x = rng.normal(size=(2, 6)).astype(np.float32)
    between = metrics.latent_use(half_used, x)[0]
    ordered = metrics.latent_use(half_used, np.repeat(x, 16, axis=0))[0]
    assert 0.3 < ordered / between < 0.7


def test_one_image_has_none_to_exchange_with(half_used):
    with pytest.raises(ValueError, match="2 images or more, got 1"):
        metrics.latent_use(half_used, np.zeros((1, 6), np.float32))
