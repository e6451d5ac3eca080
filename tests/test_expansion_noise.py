"""Noise on the expansion: the bound, its closed form, and no free scale."""

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.stats import multivariate_normal

from aef_tfp.engine.noise import stateless_seed
from aef_tfp.models import VAE, ExpandedAEF
from aef_tfp.models.standardization import Standardization
from aef_tfp.networks.mode import training_mode

SCALE = 0.7


def dense(units, size):
    layer = keras.layers.Dense(units, bias_initializer="normal", dtype="float64")
    return keras.Sequential([keras.Input((size,), dtype="float64"), layer])


def linear_gaussian(noise, size=5, latent_dim=2):
    """A model of linear maps: p(z) = N(0, I), p(y | z) = N(A z + b, I)."""
    location = dense(latent_dim, size)
    means = location.outputs[0]
    scale = keras.layers.Rescaling(0.0, SCALE, dtype="float64")(means)
    return ExpandedAEF(
        (size,),
        latent_dim,
        expansion=dense(latent_dim, size),
        expansion_noise=noise,
        encoder=keras.Model(location.inputs, [means, scale]),
        decoder=dense(size, latent_dim),
        decoder_scale="fixed",
        core_flow="none",
        prior_flow="none",
        num_levels=None,
        dtype="float64",
    )


def set_spread(model, mean, variance):
    model._standardization.moving_mean.assign(mean)
    model._standardization.moving_variance.assign(variance)


def features_of(model, y, training=False):
    with training_mode(training):
        return model._features(model._preprocess(tf.constant(y))[0]).numpy()


def affine(network):
    kernel, bias = network.get_weights()
    return kernel.T, bias


@pytest.mark.parametrize("noise", [0.1, 0.5, 3.0])
def test_the_objective_is_the_bound_of_a_linear_gaussian_model(noise, rng):
    model = linear_gaussian(noise)
    mean, variance = rng.normal(size=2), rng.uniform(0.5, 2.0, size=2)
    set_spread(model, mean, variance)
    y = rng.normal(size=5)

    # log p(y) - KL(q || p(z | y)), of Gaussians.
    a, b = affine(model.decoder.network)
    log_p = multivariate_normal(b, a @ a.T + np.eye(5)).logpdf(y)
    precision = np.eye(2) + a.T @ a
    posterior_mean = np.linalg.solve(precision, a.T @ (y - b))
    w, c = affine(model.expansion)
    v, e = affine(model.encoder.network)
    features = (w @ y + c - mean) / np.sqrt(variance + 1e-6)
    gap = (v @ y + e) + SCALE * features - posterior_mean
    spread = (SCALE * noise) ** 2 * np.eye(2)
    divergence = 0.5 * (
        np.trace(precision @ spread)
        + gap @ precision @ gap
        - 2
        - np.linalg.slogdet(spread)[1]
        - np.linalg.slogdet(precision)[1]
    )

    values = model.elbo(np.tile(y, (40_000, 1)), seed=1).numpy()
    error = values.std() / np.sqrt(len(values))
    assert error < 0.02 * max(1.0, divergence)
    assert abs(values.mean() - (log_p - divergence)) < 4 * error
    # Where q is the posterior, each draw would give log p(y) itself; K draws approach.
    estimate = model.marginal_log_prob(y[None], 4096, proposal="laplace", seed=1)
    np.testing.assert_allclose(estimate, [log_p], atol=1e-6)


def test_terms_add_up_to_the_bound(rng):
    model = linear_gaussian(0.3)
    y = rng.normal(size=(4, 5))
    terms = model.objective_terms(y, seed=2)
    assert "expansion_noise" in terms
    np.testing.assert_allclose(sum(terms.values()), model.elbo(y, seed=2), rtol=1e-12)


def scaled(model, factor):
    model.expansion.set_weights([factor * w for w in model.expansion.get_weights()])
    return model


def test_the_scale_of_the_features_is_not_free(rng):
    y = tf.constant(rng.normal(size=(64, 5)))

    def slope(noise):
        """Derivative of the training objective by the logarithm of h's scale."""
        model = linear_gaussian(noise)
        weights = [w.value for w in model.expansion.trainable_variables]
        with tf.GradientTape() as tape, training_mode():
            objective = model._objective_of(y, y, stateless_seed(0))
            total = tf.reduce_mean(objective)
        gradients = tape.gradient(total, weights)
        return sum(
            float(tf.reduce_sum(g * w)) for g, w in zip(gradients, weights, strict=True)
        )

    # Of the features' variance, 1e-6 is not standardized.
    assert abs(slope(0.3)) < 1e-4
    assert abs(slope(0.0)) > 0.1


def test_adapting_measures_the_spread_that_steps_see(rng):
    model = scaled(linear_gaussian(0.2), 50.0)
    y = rng.normal(loc=3.0, size=(256, 5))
    model.adapt(y)
    features = features_of(model, y)
    np.testing.assert_allclose(features.mean(axis=0), 0.0, atol=1e-9)
    np.testing.assert_allclose(features.std(axis=0), 1.0, atol=1e-5)
    # A step sees an event the same, whichever others are in its batch.
    part = features_of(model, y[:4], training=True)
    np.testing.assert_allclose(part, features[:4], rtol=1e-5)


def of_digits():
    return ExpandedAEF(
        (8, 8, 1),
        2,
        expansion_noise=0.2,
        encoder="dense",
        decoder="dense",
        core_flow="none",
        prior_flow="none",
        num_levels=17,
    )


@pytest.fixture(scope="module")
def trained(digit_images):
    model = of_digits()
    model.compile(keras.optimizers.Adam(1e-3))
    model.fit(digit_images[:512], batch_size=64, epochs=12, verbose=0)
    return model


def test_training_keeps_the_spread_at_one(trained, digit_images):
    before = ExpandedAEF.from_config(trained.get_config())
    y = trained._preprocess(trained.dequantize(digit_images[:512], seed=None))[0]
    spread = trained._features(y).numpy().std(axis=0)
    np.testing.assert_allclose(spread, 1.0, atol=0.25)
    assert not np.allclose(before._features(y).numpy().std(axis=0), 1.0, atol=0.25)


def test_a_saved_model_is_the_same(trained, digit_images, tmp_path):
    trained.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.expansion_noise == 0.2
    x = digit_images[:8]
    np.testing.assert_array_equal(loaded.elbo(x, seed=1), trained.elbo(x, seed=1))


def test_the_methods_are_those_of_a_bound(trained):
    assert trained.likelihood.name == "elbo"
    assert trained.likelihood.function == trained.elbo
    assert trained.likelihood.bits_per_dim_name == "elbo_bits_per_dim"
    assert "elbo" in dir(trained)
    assert "joint_log_prob" not in dir(trained)
    with pytest.raises(AttributeError, match="its objective is elbo"):
        trained.joint_log_prob  # noqa: B018
    assert trained.proposal_scale("encoder") == 0.2


def test_the_noise_of_a_model_is_not_changed(trained):
    # What was traced would go on with the former one.
    with pytest.raises(AttributeError, match="expansion_noise"):
        trained.expansion_noise = 0.5


def test_encodings_have_no_noise(trained, digit_images):
    # Which two equal images would have of their own.
    one, two = trained.encode(np.repeat(digit_images[:1], 2, axis=0))
    np.testing.assert_allclose(one, two, rtol=1e-6)


def test_copies_of_a_vae_may_have_noise(digit_images):
    vae = VAE((8, 8, 1), 2, encoder="dense", decoder="dense", num_levels=17)
    model = ExpandedAEF.from_vae(vae, expansion_noise=0.5)
    assert model.expansion_noise == 0.5
    back = VAE.from_aef(model)
    x = digit_images[:4]
    np.testing.assert_allclose(back.elbo(x, seed=1), vae.elbo(x, seed=1), rtol=1e-5)


def test_the_spread_of_a_copys_features_is_measured_before_it_trains(digit_images):
    x = digit_images[:64]
    vae = VAE((8, 8, 1), 2, encoder="dense", decoder="dense", num_levels=17)
    vae.adapt(x)
    model = ExpandedAEF.from_vae(vae, expansion_noise=0.5)
    kept = [weight.numpy() for weight in model.preprocessing.weights]
    model.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    model.fit(x, batch_size=64, verbose=0)
    features = model._features(model._preprocess(model.dequantize(x, 0))[0])
    np.testing.assert_allclose(np.std(features, axis=0), 1.0, atol=0.1)
    assert np.any(kept[0])
    for weight, value in zip(model.preprocessing.weights, kept, strict=True):
        np.testing.assert_array_equal(weight, value)


def spread_after(images, batch_size, steps):
    """Standard deviations of the features after a training that moves h little."""
    model = small(images)
    data = tf.data.Dataset.from_tensor_slices(images).batch(batch_size).repeat()
    model.fit(data, steps_per_epoch=steps, epochs=1, verbose=0)
    y = model._preprocess(model.dequantize(images, 0))[0]
    return np.std(model._features(y), axis=0)


def small(images, optimizer=None):
    model = of_digits()
    optimizer = optimizer or keras.optimizers.SGD(1e-9)
    model.compile(optimizer, jit_compile=False, steps_per_execution=4)
    model.adapt(images)
    return model


@pytest.mark.parametrize(
    ("num_images", "batch_size", "steps"), [(300, 1, 300), (300, 2, 300), (65, 64, 300)]
)
def test_the_spread_is_that_of_the_data_in_batches_of_any_size(
    num_images, batch_size, steps, digit_images
):
    # A batch of one image has no spread by itself; the last of 65 in 64 is one.
    spread = spread_after(digit_images[:num_images], batch_size, steps)
    np.testing.assert_allclose(spread, 1.0, atol=0.12)


def test_averages_count_each_image_once(rng):
    layer = Standardization(3, "float64")
    layer.build((None, 3))
    features = rng.normal(5.0, 2.0, (500, 3))
    layer.measure(features[:10])
    parts = np.split(features, np.cumsum([200, 1, 3, 150, 1, 40]))
    for part in parts:
        layer(part, training=True)
    # What was there before the first step has its share, too.
    weights, images = [], 0.0
    for part in parts:
        former = images or len(part)
        images = 0.99 * former + 0.01 * len(part)
        weights = [w * 0.99 * former / images for w in weights]
        weights.append(0.01 / images)
    sizes = [len(part) for part in parts]
    first = 1.0 - np.dot(weights, sizes)
    each = np.repeat(weights, sizes)[:, None]
    mean = first * features[:10].mean(axis=0) + (each * features).sum(axis=0)
    square = first * (features[:10] ** 2).mean(axis=0) + (each * features**2).sum(0)
    np.testing.assert_allclose(layer.moving_mean, mean, rtol=1e-12)
    np.testing.assert_allclose(layer.moving_variance, square - mean**2, rtol=1e-10)
    np.testing.assert_allclose(layer.images_per_step, images, rtol=1e-12)


def numbers(model):
    return [weight for weight in model.get_weights() if weight.dtype.kind == "f"]


def test_replicas_standardize_the_whole_batch(mirrored, digit_images):
    # Of 5 images one replica has 3 and the other 2; of the last one 1 and none.
    results = []
    for strategy in (tf.distribute.get_strategy(), mirrored):
        keras.utils.set_random_seed(0)
        with strategy.scope():
            sgd = keras.optimizers.SGD(1e-3, global_clipnorm=1.0)
            model = small(digit_images[:36], sgd)
        start = numbers(model)
        data = tf.data.Dataset.from_tensor_slices(digit_images[:36]).batch(5)
        model.fit(data, epochs=2, verbose=0)
        results.append(numbers(model))
    assert max(np.abs(a - b).max() for a, b in zip(*results, strict=True)) < 2e-6
    moved = [np.abs(a - b).max() for a, b in zip(results[0], start, strict=True)]
    assert max(moved) > 1e-3


def test_files_with_a_batch_normalization_are_read(rng, tmp_path):
    model, path = linear_gaussian(0.3), tmp_path / "model.weights.h5"
    y, values = rng.normal(size=(4, 5)), rng.uniform(0.5, 2.0, size=(5, 2))
    features = model.expansion(y)
    model.save_weights(path)
    with h5py.File(path, "r+") as file:
        # Mean and variance, and three averages more of one with `renorm`.
        stored = file["layers/batch_normalization/vars"]
        for i in list(stored):
            del stored[i]
        for i, value in enumerate(values):
            stored[str(i)] = value
    model.load_weights(path)
    expected = (features - values[0]) / np.sqrt(values[1] + 1e-6)
    np.testing.assert_allclose(model._features(y), expected, rtol=1e-12)
    # It goes on as a fresh one: of the images of a step nothing was kept.
    assert float(model._standardization.images_per_step) == 0.0


def test_one_event_has_no_spread(digit_images):
    model = ExpandedAEF((8, 8, 1), 2, num_levels=17, expansion_noise=0.5)
    model.adapt(digit_images[:1])
    features = model._features(model._preprocess(model.dequantize(digit_images, 0))[0])
    assert np.abs(features).max() < 20.0


@pytest.mark.parametrize(
    "noise", [-0.1, float("nan"), float("inf"), 1e30, "0.2", None, [0.2], True]
)
def test_other_noise_is_refused(noise):
    with pytest.raises(ValueError, match=r"expansion_noise must be .* got"):
        ExpandedAEF((4,), 1, expansion_noise=noise)
