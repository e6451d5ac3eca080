"""The deterministic autoencoder, the pixel MAF, and training on noisy images."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from calculus import fresh, perturb, with_log_det
from scipy.stats import norm
from test_models import small_flow, small_model, standard_normal_log_prob
from test_variational import vae

from aef_tfp import flows
from aef_tfp.models import (
    IWAE,
    VAE,
    Autoencoder,
    ExpandedAEF,
    PartitionedAEF,
    PixelMAF,
)
from aef_tfp.networks import MADE, dense_decoder, dense_encoder


def autoencoder(event_shape=(4, 4, 1), latent_dim=3, dtype="float64", **arguments):
    model = Autoencoder(
        event_shape,
        latent_dim,
        encoder=dense_encoder(event_shape, (32,), dtype=dtype),
        decoder=dense_decoder(latent_dim, event_shape, hidden_units=(32,), dtype=dtype),
        dtype=dtype,
        **arguments,
    )
    return perturb(model, np.random.default_rng(1), scale=0.1)


def pixel_maf(event_shape=(2, 3, 1), dtype="float64", **arguments):
    size = int(np.prod(event_shape))
    model = PixelMAF(
        event_shape, flow=small_flow(size, dtype=dtype), dtype=dtype, **arguments
    )
    return perturb(model, np.random.default_rng(1), scale=0.1)


def test_autoencoder_loss_is_the_squared_error_of_pixels(rng):
    model = autoencoder()
    x = rng.uniform(0.1, 0.9, size=(5, 4, 4, 1))
    error = (model.reconstruct(x).numpy() - x) ** 2
    got = model.objective(tf.constant(x), tf.constant([0, 1]))
    np.testing.assert_allclose(got, -error.mean((1, 2, 3)), rtol=1e-9)
    assert model.encode(x).shape == (5, 3)
    np.testing.assert_allclose(model.decode(model.encode(x)), model.reconstruct(x))


def test_autoencoder_learns_saves_and_loads(tmp_path, digit_images):
    model = autoencoder((8, 8, 1), 8, "float32", num_levels=17)
    model.compile(keras.optimizers.Adam(1e-2), jit_compile=False)
    before = [w.numpy() for w in model.trainable_weights]
    images = digit_images[:512]
    history = model.fit(
        images, batch_size=64, epochs=8, validation_data=images, verbose=0
    ).history
    for weight, old in zip(model.trainable_weights, before, strict=True):
        assert (weight.numpy() != old).any(), weight.path
    assert history["mean_squared_error"] == history["loss"]
    assert "val_mean_squared_error" in history
    # Better than the mean image, which needs no latents.
    scaled = (images + 0.5) / 17
    assert history["val_loss"][-1] < 0.75 * ((scaled - scaled.mean(0)) ** 2).mean()
    model.save(tmp_path / "model.keras")
    copy = keras.saving.load_model(tmp_path / "model.keras")
    assert json.dumps(copy.get_config()) == json.dumps(model.get_config())
    np.testing.assert_array_equal(
        model.reconstruct(images[:9]), copy.reconstruct(images[:9])
    )


def test_autoencoder_has_the_parts_of_the_others():
    model = Autoencoder((28, 28, 1), 32)
    other = VAE((28, 28, 1), 32, posterior_flow="none", prior_flow="none")
    scales = 6272 * 32 + 32 + 784  # the encoder's scale head, the decoder's weights
    assert model.count_params() == other.count_params() - scales


@pytest.mark.parametrize("event_shape", [(2, 3, 1), (5,)])
def test_pixel_maf_log_prob_is_the_full_jacobian(event_shape, rng):
    model = pixel_maf(event_shape)
    x = tf.constant(rng.uniform(0.05, 0.95, size=(3, *event_shape)))
    got = model.log_prob(x)
    inverse = model.distribution.bijector.inverse
    inverse_and_log_det = with_log_det(inverse)
    for i in range(3):
        base, log_det = inverse_and_log_det(x[i : i + 1])
        expected = standard_normal_log_prob(base) + log_det
        np.testing.assert_allclose(got[i], expected, rtol=1e-9)
    np.testing.assert_allclose(model(x), inverse(fresh(x)), rtol=1e-9)


def test_pixel_maf_samples_its_density():
    model = pixel_maf((2,), logit_lambda=None)
    samples = model.sample(20_000, seed=1)
    center = np.median(samples, axis=0)
    inside = np.linalg.norm(samples - center, axis=-1) < 1.0
    weights = np.where(inside, np.exp(-model.log_prob(samples)), 0.0)
    error = weights.std() / np.sqrt(len(weights))
    assert abs(weights.mean() - np.pi) < 4 * error
    assert error < 0.1
    np.testing.assert_allclose(
        model.sample(4, 0.0, seed=1)[1:], model.sample(3, 0.0, seed=2), rtol=1e-12
    )


def test_pixel_maf_fits_saves_and_loads(tmp_path, rng):
    model = pixel_maf((4, 4, 1), "float32", num_levels=17)
    images = rng.integers(0, 17, size=(128, 4, 4, 1), dtype=np.uint8)
    model.compile(keras.optimizers.Adam(1e-2), jit_compile=False)
    history = model.fit(images, batch_size=16, epochs=4, verbose=0).history
    assert history["bits_per_dim"][-1] < history["bits_per_dim"][0]
    model.save(tmp_path / "model.keras")
    copy = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        model.log_prob(images, seed=1), copy.log_prob(images, seed=1)
    )
    np.testing.assert_array_equal(model.sample(2, seed=1), copy.sample(2, seed=1))


@pytest.mark.parametrize(("layers", "units"), [(4, 256), (8, 512)])
def test_pixel_maf_has_the_sizes_of_the_paper(layers, units):
    model = PixelMAF((28, 28, 1), num_layers=layers, hidden_units=units)
    per_layer = 784 * units + units + 4 * (units**2 + units) + 1568 * (units + 1)
    expected = layers * (per_layer + 2 * 784) + 2
    assert sum(int(np.prod(w.shape)) for w in model.trainable_weights) == expected


@pytest.mark.parametrize("kind", ["maf", "iaf"])
def test_a_pixel_maf_has_its_sizes_by_name(kind):
    flow = PixelMAF((3,), flow=kind, num_layers=2, hidden_units=5).flow
    maf = flow.flow if kind == "iaf" else flow
    assert (maf.num_layers, maf.hidden_units) == (2, 5)


def test_every_pixel_is_seen_by_a_made_with_fewer_units_than_pixels(rng):
    # Degrees of at most `hidden_units` would hide all later inputs.
    made = MADE(40, hidden_units=12, dtype="float64")
    perturb(made, rng)
    x = tf.constant(rng.normal(size=(1, 40)))
    with tf.GradientTape() as tape:
        tape.watch(x)
        last = made(x)[0, -1, 0]
    gradient = tape.gradient(last, x).numpy()[0]
    assert (gradient[:38] != 0.0).all()
    flow = flows.Autoregressive(40, hidden_units=12, dtype="float64")
    perturb(flow, rng, scale=0.1)
    z = tf.constant(rng.normal(size=(3, 40)))
    y = flow.bijector.forward(z)
    np.testing.assert_allclose(flow.bijector.inverse(fresh(y)), z, atol=1e-8)


# Denoising.


def test_noise_is_gaussian_kept_in_range_and_seeded():
    model = autoencoder(noise_std=0.3, num_levels=17)
    x = np.full((2000, 4, 4, 1), 8, np.uint8)
    noisy = model.corrupt(x, seed=1).numpy()
    middle = 8.5 / 17
    np.testing.assert_allclose(noisy.mean(), middle, atol=0.005)
    # Of a normal of deviation 0.3 around the middle, 4.8 % lie on each side outside.
    # They are spread over the lowest level, beside the values that fell there.
    lowest = norm.cdf((1 / 17 - middle) / 0.3)
    np.testing.assert_allclose((noisy < 1 / 17).mean(), lowest, atol=0.005)
    assert ((noisy > 0.0) & (noisy < 1.0)).all()
    np.testing.assert_array_equal(noisy, model.corrupt(x, seed=1))
    assert (noisy != model.corrupt(x, seed=2).numpy()).any()
    # A vector model without pixels has no range to clip to.
    free = autoencoder((5,), noise_std=3.0)
    assert np.abs(free.corrupt(np.zeros((100, 5)), seed=0)).max() > 3.0


@pytest.mark.parametrize("target", ["noisy", "clean"])
def test_the_objective_is_that_of_its_target(target, rng):
    model = autoencoder(noise_std=0.2, denoising_target=target)
    x = tf.constant(rng.uniform(0.1, 0.9, size=(3, 4, 4, 1)))
    seed = tf.constant([3, 4])
    noisy = {}
    corrupt = model._corrupt

    def recorded(x, seed):
        noisy["x"] = corrupt(x, seed)
        return noisy["x"]

    model._corrupt = recorded
    got = model.objective(x, seed)
    assert np.abs(noisy["x"] - x).max() > 0.1
    reference = noisy["x"] if target == "noisy" else x
    error = (model.reconstruct(noisy["x"]) - reference) ** 2
    np.testing.assert_allclose(got, -tf.reduce_mean(error, axis=(1, 2, 3)), rtol=1e-9)
    assert (got.numpy() != model.objective(x, seed + 1).numpy()).all()


def test_noise_leaves_the_density_alone(rng):
    # log_prob is that of the events given; only training adds noise.
    plain = small_model(PartitionedAEF, (4, 4, 1), 2)
    noisy = PartitionedAEF.from_config({**plain.get_config(), "noise_std": 0.5})
    noisy.set_weights(plain.get_weights())
    x = rng.uniform(0.1, 0.9, size=(3, 4, 4, 1))
    np.testing.assert_array_equal(plain.log_prob(x), noisy.log_prob(x))
    seed = tf.constant([1, 2])
    assert (plain.objective(x, seed).numpy() != noisy.objective(x, seed).numpy()).all()


def test_the_clean_objective_of_an_aef_is_a_density_given_the_noisy_event(rng):
    model = small_model(
        ExpandedAEF, (4, 4, 1), 2, noise_std=0.2, denoising_target="clean"
    )
    clean = tf.constant(rng.uniform(0.1, 0.9, size=(1, 4, 4, 1)))
    noisy = tf.constant(rng.uniform(0.1, 0.9, size=(1, 4, 4, 1)))
    y_noisy = model.preprocessing.bijector.inverse(noisy)
    loc, scale = model.encoder(y_noisy)

    def to_base(pair):
        core, x = pair
        y = tf.reshape(model.preprocessing.bijector.inverse(x), [-1, 16])
        z = loc + scale * model.core_flow.bijector.inverse(core)
        mean, sigma = model.chain.decoded(z)
        return [model.prior_flow.bijector.inverse(z), (y - mean) / sigma]

    pair = [model.expansion(y_noisy), clean]
    base, log_det = with_log_det(to_base)(pair)
    expected = standard_normal_log_prob(*base) + log_det
    got = model._objective_of(noisy, clean, tf.constant([0, 0]))
    np.testing.assert_allclose(got, [expected], rtol=1e-9)
    assert list(model.objective_logs(tf.constant(1.0))) == [
        "clean_target_joint_bits_per_dim"
    ]


@pytest.mark.parametrize("cls", [VAE, IWAE])
def test_the_clean_objective_of_a_vae_has_the_noisy_posterior(cls, rng):
    model = vae(cls, (4, 4, 1), noise_std=0.2, denoising_target="clean")
    clean, noisy = (
        tf.constant(rng.uniform(0.1, 0.9, size=(3, 4, 4, 1))) for _ in range(2)
    )
    seed = tf.constant([0, 0])
    got = model._objective_of(noisy, clean, seed)
    # The posterior alone is that of the noisy event.
    loc, scale = model.encoder(model.preprocessing.bijector.inverse(noisy))
    encoder = model.encoder.call
    model.encoder.call = lambda y: (loc, scale)
    expected = model._objective_of(clean, clean, seed)
    model.encoder.call = encoder
    np.testing.assert_allclose(got, expected, rtol=1e-9)


@pytest.mark.parametrize("target", ["noisy", "clean"])
def test_a_denoiser_denoises(target, digit_images):
    model = autoencoder(
        (8, 8, 1), 8, "float32", num_levels=17, noise_std=0.3, denoising_target=target
    )
    model.compile(keras.optimizers.Adam(1e-2), jit_compile=False)
    train = digit_images[:1024]
    model.fit(train, batch_size=64, epochs=30, verbose=0)
    unseen = digit_images[1024:1280]
    noisy = model.corrupt(unseen, seed=0)

    def error(images):
        return np.mean((images - (unseen + 0.5) / 17) ** 2)

    denoised = error(model.reconstruct(noisy))
    assert denoised < 0.8 * error(noisy)
    # The mean image needs no network.
    assert denoised < 0.8 * error((train.mean(0) + 0.5) / 17)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: autoencoder(noise_std=-0.1), "noise_std must be a finite number of"),
        (lambda: autoencoder(denoising_target="pure"), "must be 'noisy' or 'clean'"),
        (
            lambda: PartitionedAEF((4, 4, 1), 2, denoising_target="clean"),
            "use 'noisy', or an ExpandedAEF",
        ),
        (lambda: PixelMAF((4, 4, 1), denoising_target="clean"), "use 'noisy', or"),
        (lambda: PixelMAF((2,), num_layers=0), "num_layers must be at least 1, got 0"),
        (lambda: PixelMAF((2,), hidden_units=1.5), "hidden_units must be an integer"),
        (
            lambda: PixelMAF((2,), flow=flows.ActNorm(1)),
            "must take vectors of 2 entries, got one for 1",
        ),
        (
            lambda: autoencoder(num_levels=1),
            "num_levels must be an integer of at least 2",
        ),
    ],
)
def test_bad_arguments_are_refused(build, message):
    with pytest.raises(ValueError, match=message) as error:
        build()
    assert "\n" not in str(error.value)


def test_a_pixel_maf_stays_without_clean_targets():
    model = PixelMAF((2, 2, 1), num_layers=1, hidden_units=8)
    with pytest.raises(ValueError, match="PixelMAF has no denoising_target 'clean'"):
        model.denoising_target = "clean"
