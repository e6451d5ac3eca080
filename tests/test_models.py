"""The models' mathematics, float64: densities against autodiff and closed forms."""

import json
from collections import Counter

import keras
import numpy as np
import pytest
import tensorflow as tf
from calculus import fresh, perturb, with_log_det
from scipy.stats import kstest, multivariate_normal

from aef_tfp import flows
from aef_tfp.engine.noise import (
    normal_noise,
    normal_of_bits,
    stateless_seed,
    uniform_noise,
)
from aef_tfp.models import (
    VAE,
    Autoencoder,
    ExpandedAEF,
    PartitionedAEF,
    PixelMAF,
    bits_per_dim,
)
from aef_tfp.networks import (
    MADE,
    GaussianDecoder,
    GaussianEncoder,
    dense_decoder,
    dense_encoder,
)


def small_flow(size, kind=flows.MAF, dtype="float64"):
    return kind(size, num_layers=2, hidden_units=8, dtype=dtype)


def small_model(cls, event_shape, latent_dim, dtype="float64", **arguments):
    """A model with tiny networks and weights in general position."""
    defaults = {
        "encoder": dense_encoder(event_shape, (6,), dtype=dtype),
        "decoder": dense_decoder(
            latent_dim, event_shape, hidden_units=(6,), dtype=dtype
        ),
        "core_flow": small_flow(latent_dim, dtype=dtype),
        "prior_flow": small_flow(latent_dim, dtype=dtype),
        "dtype": dtype,
    }
    model = cls(event_shape, latent_dim, **{**defaults, **arguments})
    return perturb(model, np.random.default_rng(1), scale=0.2)


def standard_normal_log_prob(*parts):
    flat = np.concatenate([np.ravel(part) for part in parts])
    return -0.5 * np.sum(flat**2) - 0.5 * len(flat) * np.log(2 * np.pi)


ONE_IAF = flows.IAF(3, num_layers=1, hidden_units=8, dtype="float64")


@pytest.mark.parametrize(
    ("event_shape", "arguments"),
    [
        ((4, 4, 1), {"partition": "center"}),
        ((2, 3, 2), {"partition": "corner"}),
        ((7,), {"partition": "random"}),
        ((4, 4, 1), {"encoder": "conv", "decoder": "conv"}),
        ((4, 4, 1), {"decoder": None, "decoder_scale": "dependent"}),
        ((4, 4, 1), {"decoder_scale": "fixed", "core_flow": "none"}),
        ((5,), {"core_flow": ONE_IAF, "logit_lambda": 0.01}),
    ],
)
def test_partitioned_log_prob_is_the_full_jacobian(event_shape, arguments, rng):
    model = small_model(PartitionedAEF, event_shape, 3, **arguments)
    # An IAF as the core flow is sequential in this direction: one event has to do.
    loops = arguments.get("core_flow") is ONE_IAF
    num_events = 1 if loops else 3
    x = tf.constant(rng.uniform(0.05, 0.95, size=(num_events, *event_shape)))
    got = model.log_prob(x)
    to_base = with_log_det(model.distribution.bijector.inverse, as_graph=not loops)
    for i in range(num_events):
        base, log_det = to_base(x[i : i + 1])
        expected = standard_normal_log_prob(*base) + log_det
        np.testing.assert_allclose(got[i], expected, rtol=1e-9)


@pytest.mark.parametrize("event_shape", [(4, 4, 1), (5,)])
def test_joint_log_prob_is_the_full_jacobian(event_shape, rng):
    model = small_model(ExpandedAEF, event_shape, 2)
    x = tf.constant(rng.uniform(0.05, 0.95, size=(3, *event_shape)))
    got = model.joint_log_prob(x)
    size = int(np.prod(event_shape))

    def to_base(pair):
        w, x = pair
        y = model.preprocessing.bijector.inverse(x)
        return model.chain.bijector.inverse([w, tf.reshape(y, [-1, size])])

    to_base_and_log_det = with_log_det(to_base)
    for i in range(3):
        example = x[i : i + 1]
        w = model.expansion(model.preprocessing.bijector.inverse(fresh(example)))
        base, log_det = to_base_and_log_det([w, example])
        expected = standard_normal_log_prob(*base) + log_det
        np.testing.assert_allclose(got[i], expected, rtol=1e-9)


@pytest.mark.parametrize("logit_lambda", [None, 0.0])
def test_a_two_dimensional_density_integrates_to_one(logit_lambda):
    model = small_model(PartitionedAEF, (2,), 1, logit_lambda=logit_lambda)
    step = 0.05
    nodes = np.arange(-16.0, 16.0, step)
    points, weights = nodes, np.full_like(nodes, step)
    if logit_lambda is not None:
        # On (0, 1) the same nodes through a sigmoid, which resolves the edges.
        points = 1.0 / (1.0 + np.exp(-nodes))
        weights = step * points * (1.0 - points)
    grid = np.stack(np.meshgrid(points, points), axis=-1).reshape(-1, 2)
    density = np.exp(model.log_prob(tf.constant(grid)))
    total = density @ np.outer(weights, weights).ravel()
    np.testing.assert_allclose(total, 1.0, atol=1e-3)


def test_samples_follow_the_density():
    # The volume of a ball: E[1{ball} / p] over samples is the ball's volume.
    model = small_model(PartitionedAEF, (2,), 1)
    samples = model.distribution.sample(40_000, seed=1)
    center = np.median(samples, axis=0)
    inside = np.linalg.norm(samples - center, axis=-1) < 1.0
    weights = np.where(inside, np.exp(-model.log_prob(samples)), 0.0)
    error = weights.std() / np.sqrt(len(weights))
    assert 0.1 < inside.mean() < 0.95
    assert abs(weights.mean() - np.pi) < 4 * error
    assert error < 0.1


def test_sample_with_deviations_is_the_distribution():
    model = small_model(PartitionedAEF, (2,), 1)
    ours = model.sample(20_000, seed=1, with_deviations=True).numpy()
    reference = model.distribution.sample(20_000, seed=2).numpy()
    np.testing.assert_allclose(ours.mean(0), reference.mean(0), atol=0.1)
    np.testing.assert_allclose(np.cov(ours.T), np.cov(reference.T), atol=0.25)


def linear_gaussian(latent_dim=3, size=5):
    """z ~ N(0, I), x = W z + b + sigma * noise: a marginal in closed form.

    The encoder is near the exact posterior, so that few samples suffice. Returns the
    model, the marginal, and the proposal scale that fits.
    """
    rng = np.random.default_rng(2)
    kernel, bias = rng.normal(size=(latent_dim, size)), rng.normal(size=size)
    sigma = rng.uniform(0.5, 1.0, size=size)
    marginal = multivariate_normal(bias, kernel.T @ kernel + np.diag(sigma**2))
    covariance = np.linalg.inv(np.eye(latent_dim) + (kernel / sigma**2) @ kernel.T)
    to_mean = (kernel / sigma**2).T @ covariance

    x = keras.Input((size,), dtype="float64")
    loc = keras.layers.Dense(latent_dim, dtype="float64")
    scale = keras.layers.Dense(latent_dim, dtype="float64")
    encoder = keras.Model(x, [loc(x), scale(x)])
    loc.set_weights([to_mean, -bias @ to_mean])
    scale.set_weights(
        [np.zeros((size, latent_dim)), 1.2 * np.sqrt(np.diag(covariance))]
    )
    decoder = dense_decoder(latent_dim, (size,), hidden_units=(), dtype="float64")
    model = ExpandedAEF(
        (size,),
        latent_dim,
        encoder=encoder,
        decoder=decoder,
        core_flow=flows.Stack([flows.ActNorm(latent_dim, dtype="float64")]),
        prior_flow="none",
        dtype="float64",
    )
    decoder.set_weights([kernel, bias])
    model.decoder.raw_scale.assign(np.log(np.expm1(sigma - 1e-5)))
    # u = exp(0.5) * w + 1, undone by the mean of the expansion and the proposal's
    # scale, so that z is near its posterior.
    norm = model.core_flow.flows[0]
    norm.log_scale.assign([0.5] * latent_dim)
    norm.shift.assign([1.0] * latent_dim)
    weight, offset = model.expansion.weights
    weight.assign(0.01 * weight)
    offset.assign([-np.exp(-0.5)] * latent_dim)
    return model, marginal, np.exp(-0.5)


def test_bits_per_dim_of_uniform_images_is_8():
    assert bits_per_dim(0.0, event_size=784, num_levels=256) == 8.0
    # A density of 256 on every pixel is certainty: 0 bits.
    np.testing.assert_allclose(bits_per_dim(10 * np.log(256), 10, 256), 0.0, atol=1e-12)
    np.testing.assert_allclose(bits_per_dim(-10 * np.log(2), 10), 1.0)


def test_integer_events_are_dequantized_within_their_level():
    model = small_model(PartitionedAEF, (4, 4, 1), 2, num_levels=17)
    x = tf.constant(np.arange(32).reshape(2, 4, 4, 1) % 17, tf.uint8)
    noisy = model.dequantize(x, tf.constant([1, 2]))
    levels = noisy.numpy() * 17
    np.testing.assert_array_equal(np.floor(levels), x)
    assert 0.2 < (levels - np.floor(levels)).mean() < 0.8
    np.testing.assert_allclose(model.dequantize(x, None), (x.numpy() + 0.5) / 17)
    for pair in ((1, 2), np.array([1, 2])):
        np.testing.assert_array_equal(model.dequantize(x, pair), noisy)
    for three in (np.int64(3), tf.constant(3)):
        np.testing.assert_array_equal(
            model.dequantize(x, three), model.dequantize(x, 3)
        )
    np.testing.assert_allclose(
        model.log_prob(x, seed=5), model.log_prob(x, seed=5), rtol=0
    )
    assert (
        model.log_prob(x, seed=5).numpy() != model.log_prob(x, seed=6).numpy()
    ).all()


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_graph_draws_a_new_seed_each_time_it_runs(jit_compile):
    draw = tf.function(lambda: stateless_seed(None), jit_compile=jit_compile)
    seeds = {tuple(draw().numpy()) for _ in range(4)}
    assert len(seeds) == 4


@pytest.mark.parametrize("seed", [0, 5, -3, 2**31, 2**40 + 7])
def test_a_seed_may_be_a_tensor(seed):
    expected = stateless_seed(seed)
    tensor = tf.constant(seed, tf.int64)
    np.testing.assert_array_equal(stateless_seed(tensor), expected)
    np.testing.assert_array_equal(tf.function(stateless_seed)(tensor), expected)


def test_noise_of_models_is_new_in_each_run_of_a_graph():
    none = {"core_flow": "none", "prior_flow": "none"}
    model = small_model(
        PartitionedAEF, (4, 4, 1), 3, dtype="float32", noise_std=0.1, **none
    )
    images = np.full((4, 4, 4, 1), 7, np.uint8)
    noisy = tf.data.Dataset.from_tensors(images).repeat(2).map(model.corrupt)
    first, second = noisy
    assert (first != second).numpy().any()
    compute = tf.function(lambda x: (model.log_prob(x), model.sample(2)))
    for once, again in zip(compute(images), compute(images), strict=True):
        assert (once != again).numpy().all()


def test_noise_is_standard_and_finite_for_all_bits():
    # One number in 2^24 is the highest: rounded to a probability of 1 it would turn an
    # epoch's validation loss into NaN once in a hundred times.
    ends = tf.constant([0, 2**31 - 1, 2**31, 2**32 - 1], tf.uint32)
    for dtype in ("float32", "float64"):
        low, below, above, high = normal_of_bits(ends, dtype).numpy()
        np.testing.assert_allclose([high, above], [-low, -below], rtol=1e-5)
        assert 5.0 < high < 6.0
    numbers = normal_noise([100_000], stateless_seed(1), "float32").numpy()
    assert kstest(numbers, "norm").pvalue > 0.01
    levels = uniform_noise([100_000], stateless_seed(2), tf.float32).numpy()
    assert kstest(levels, "uniform").pvalue > 0.01
    assert levels.min() >= 0.0
    assert levels.max() < 1.0


@pytest.mark.parametrize("cls", [PartitionedAEF, ExpandedAEF])
def test_decoding_inverts_encoding_up_to_deviations(cls, rng):
    model = small_model(cls, (4, 4, 1), 3, logit_lambda=0.0)
    z = tf.constant(0.3 * rng.normal(size=(5, 3)))
    x = model.decode(z)
    assert x.shape == (5, 4, 4, 1)
    assert (x.numpy() > 0).all()
    assert (x.numpy() < 1).all()
    if cls is PartitionedAEF:
        # Without deviations the event has exactly these latents.
        np.testing.assert_allclose(model.encode(x), z, rtol=1e-6)
    np.testing.assert_allclose(model.reconstruct(x), model.decode(model.encode(x)))
    np.testing.assert_allclose(model(x), model.reconstruct(x))
    lines = model.interpolate(x[:2], x[2:4], num_steps=5)
    assert lines.shape == (2, 5, 4, 4, 1)
    np.testing.assert_allclose(lines[:, 0], model.reconstruct(x[:2]))
    np.testing.assert_allclose(lines[:, -1], model.reconstruct(x[2:4]))
    middle = (model.encode(x[:2]) + model.encode(x[2:4])) / 2
    np.testing.assert_allclose(lines[:, 2], model.decode(middle))


@pytest.mark.parametrize("cls", [PartitionedAEF, ExpandedAEF])
def test_sampling_is_algorithm_2_and_3(cls):
    model = small_model(cls, (4, 4, 1), 3)
    samples = model.sample(6, seed=4)
    np.testing.assert_array_equal(samples, model.sample(6, seed=4))
    assert np.abs(samples - model.sample(6, seed=5)).max() > 1e-6
    assert np.abs(model.sample(6) - model.sample(6)).max() > 1e-6
    # At temperature 0 all samples are the decoded mode of the base distribution.
    cold = model.sample(3, temperature=0.0)
    z = model.prior_flow.bijector.forward(tf.zeros((3, 3), tf.float64))
    np.testing.assert_allclose(cold, model.decode(z))
    # Of single precision, the model of double.
    warm = model.sample(3, temperature=tf.constant(0.5), seed=4)
    np.testing.assert_array_equal(warm, model.sample(3, temperature=0.5, seed=4))
    noisy = model.sample(6, seed=4, with_deviations=True)
    assert noisy.shape == samples.shape
    assert np.abs(noisy - samples).max() > 1e-6


def test_latents_of_any_type_are_decoded():
    model = image_model()
    z = np.arange(6).reshape(2, 3)
    expected = model.decode(z.astype("float32"))
    for latents in (z, z.tolist(), tf.constant(z, tf.float64), tf.Variable(z)):
        np.testing.assert_array_equal(model.decode(latents), expected)


def test_prior_is_the_flow_of_a_normal(rng):
    model = small_model(PartitionedAEF, (5,), 2)
    z = tf.constant(rng.normal(size=(4, 2)))
    z0 = model.prior_flow.bijector.inverse(fresh(z))
    log_det = model.prior_flow.bijector.inverse_log_det_jacobian(fresh(z), 1)
    expected = [standard_normal_log_prob(row) for row in z0] + log_det
    np.testing.assert_allclose(model.prior.log_prob(z), expected)
    assert model.prior.sample(7, seed=1).shape == (7, 2)


# Table 3 of the paper, in millions. It gives 2.71 for d = 16, where the sizes it states
# elsewhere (appendix D) come to 2.7208.
@pytest.mark.parametrize(
    ("latent_dim", "partitioned", "expanded"),
    [
        (2, 2.37, 2.37),
        (4, 2.42, 2.42),
        (8, 2.52, 2.53),
        (16, 2.72, 2.73),
        (32, 3.12, 3.15),
    ],
)
def test_parameter_counts_of_table_3(latent_dim, partitioned, expanded):
    for cls, millions in ((PartitionedAEF, partitioned), (ExpandedAEF, expanded)):
        model = cls((28, 28, 1), latent_dim)
        count = sum(int(np.prod(w.shape)) for w in model.trainable_weights)
        assert round(count / 1e6, 2) == millions
        # The original code's ActNorms between flow layers are scalar.
        exact = {(ExpandedAEF, 2): 2_372_649, (ExpandedAEF, 32): 3_145_539}
        if (cls, latent_dim) in exact:
            assert count - 8 * 2 * (latent_dim - 1) == exact[cls, latent_dim]


@pytest.mark.parametrize("cls", [PartitionedAEF, ExpandedAEF])
def test_keras_files_round_trip_bit_exactly(cls, tmp_path, rng):
    model = small_model(cls, (4, 4, 1), 3, dtype="float32", seed=7, num_levels=17)
    model.compile(keras.optimizers.Adam(2e-3, global_clipnorm=5.0))
    images = rng.integers(0, 17, size=(32, 4, 4, 1), dtype=np.uint8)
    model.adapt(images)
    model.save(tmp_path / "model.keras")
    copy = keras.saving.load_model(tmp_path / "model.keras")
    assert json.dumps(copy.get_config()) == json.dumps(model.get_config())
    name = "log_prob" if cls is PartitionedAEF else "joint_log_prob"
    np.testing.assert_array_equal(
        getattr(model, name)(images, seed=1), getattr(copy, name)(images, seed=1)
    )
    np.testing.assert_array_equal(model.sample(4, seed=1), copy.sample(4, seed=1))
    # Trained on, it neither adapts anew nor starts its optimizer anew.
    assert copy.optimizer.global_clipnorm == 5.0
    before = copy.preprocessing.flows[-1].get_weights()
    copy.optimizer.learning_rate.assign(0.0)
    copy.fit(images, batch_size=16, verbose=0)
    for old, new in zip(
        before, copy.preprocessing.flows[-1].get_weights(), strict=True
    ):
        np.testing.assert_array_equal(old, new)


def test_events_may_be_a_variable(rng):
    model = small_model(ExpandedAEF, (3,), 2)
    x = rng.normal(size=(2, 3))
    expected = model.joint_log_prob(x)
    for variable in (tf.Variable(x), keras.Variable(x, dtype="float64")):
        np.testing.assert_array_equal(model.joint_log_prob(variable), expected)


@pytest.mark.parametrize("partition", [np.eye(4, dtype=bool)[..., None], "random"])
def test_a_mask_survives_the_keras_file(partition, tmp_path, rng):
    given = partition if isinstance(partition, str) else partition.copy()
    model = small_model(PartitionedAEF, (4, 4, 1), 4, partition=given, dtype="float32")
    x = rng.uniform(size=(3, 4, 4, 1)).astype(np.float32)
    expected = model.log_prob(x)
    # It is fixed when the model is made, whatever changes after that.
    if partition is not given:
        given[:] = False
    with pytest.raises(AttributeError, match="partition"):
        model.partition = "corner"
    model.seed = 5
    model.save(tmp_path / "model.keras")
    copy = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(expected, copy.log_prob(x))
    np.testing.assert_array_equal(copy.partition, model.partition)


def test_any_keras_networks_serve(tmp_path, rng):
    inputs = keras.Input((5, 3, 2))
    hidden = keras.layers.Conv2D(4, 3, activation="gelu")(inputs)
    encoder = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(hidden))
    z = keras.Input((2,))
    hidden = keras.layers.Dense(30)(z)
    decoder = keras.Model(
        z,
        [
            keras.layers.Reshape((5, 3, 2))(hidden),
            keras.layers.Reshape((5, 3, 2))(
                keras.layers.Dense(30, activation="softplus")(z)
            ),
        ],
    )
    expansion = keras.Sequential(
        [keras.layers.Flatten(), keras.layers.Dense(2, activation="tanh")]
    )
    model = ExpandedAEF(
        (5, 3, 2),
        2,
        encoder=encoder,
        decoder=decoder,
        expansion=expansion,
        core_flow=small_flow(2, dtype="float32"),
        prior_flow=small_flow(2, flows.IAF, dtype="float32"),
    )
    images = rng.integers(0, 256, size=(16, 5, 3, 2), dtype=np.uint8)
    model.compile("adam")
    model.fit(images, batch_size=8, verbose=0)
    model.save(tmp_path / "model.keras")
    copy = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        model.joint_log_prob(images, seed=1), copy.joint_log_prob(images, seed=1)
    )


def image_model(cls=PartitionedAEF):
    return small_model(cls, (4, 4, 1), 3, dtype="float32", num_levels=17)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda m: m.log_prob(np.zeros((4, 4, 1))),
            r"\[batch, 4, 4, 1\], got \[4, 4, 1",
        ),
        (
            lambda m: m.log_prob(np.zeros((2, 4, 4, 1)) + 1.5),
            r"\[0, 1\], got.*1.5 to 1.5",
        ),
        (lambda m: m.log_prob(np.full((2, 4, 4, 1), np.nan)), "finite, got 32 NaN"),
        (
            lambda m: m.log_prob(np.full((2, 4, 4, 1), 17)),
            r"0 ... 16 \(num_levels = 17\), got values from 17 to 17",
        ),
        (
            lambda m: m.log_prob(np.zeros((2, 4, 4, 1), bool)),
            "integers or floats, got b",
        ),
        (lambda m: m.sample(0), "num_samples must be at least 1, got 0"),
        (lambda m: m.sample(2.5), "num_samples must be an integer, got 2.5"),
        (lambda m: m.sample(2, temperature=-1.0), "temperature must be .* got -1.0"),
        (lambda m: m.sample(2, temperature=np.nan), "temperature must be .* got nan"),
        (lambda m: m.sample(2, temperature="a"), "temperature must be .* got 'a'"),
        (lambda m: m.sample(2, temperature=None), "temperature must be .* got None"),
        (lambda m: m.encode(None), r"got NoneType; pass \[batch, 4, 4, 1\]"),
        (lambda m: m.log_prob("a.png"), "got str; pass"),
        (lambda m: m.decode(None), "latents that are numbers, got NoneType"),
        (lambda m: m.decode([["a"]]), "that are numbers, got str"),
        (lambda m: m.decode(np.zeros((2, 3), bool)), "that are numbers, got bool"),
        (lambda m: m.decode([[0.0, np.nan, np.inf]]), "finite, got 2 NaN or infinite"),
        (
            lambda m: m.decode(tf.ragged.constant([[1.0], [1.0, 2.0]])),
            "Latents must be a dense array, got a RaggedTensor",
        ),
        (
            lambda m: m.log_prob(tf.ragged.constant([[1.0], [1.0, 2.0]])),
            "Events must be a dense array, got a RaggedTensor",
        ),
        (
            lambda m: m.log_prob(tf.sparse.from_dense(tf.ones([2, 4]))),
            "Events must be a dense array, got a SparseTensor",
        ),
        (lambda m: m.decode(np.full((1, 3), 1e300)), "finite, got 3 NaN or infinite"),
        (lambda m: m.decode(np.zeros((2, 4))), r"\[batch, 3\], got \[2, 4\]"),
        (
            lambda m: m.interpolate(np.zeros((2, 4, 4, 1)), np.zeros((3, 4, 4, 1))),
            "equally many events, got 2 and 3",
        ),
        (
            lambda m: m.interpolate(*[np.zeros((2, 4, 4, 1))] * 2, num_steps=1),
            "num_steps must be at least 2, got 1",
        ),
        (lambda m: m.adapt(np.zeros((0, 4, 4, 1), np.uint8)), "there are no images"),
    ],
)
def test_bad_input_is_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call(image_model())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"latent_dim": 0}, "latent_dim must be at least 1, got 0"),
        ({"latent_dim": 16}, r"latent_dim must lie in \[1, 15\].*got 16"),
        ({"latent_dim": 2.0}, "latent_dim must be an integer, got 2.0"),
        ({"event_shape": (9, 4)}, r"event_shape must be .* along one axis .*\(9, 1, 4"),
        ({"event_shape": 20}, r"event_shape must .* got 20; a vector is \(20,\)"),
        ({"event_shape": "20"}, r"event_shape must be .* got '20'\.$"),
        (
            {"num_levels": 1},
            "num_levels must be an integer of at least 2 or None, got 1",
        ),
        ({"logit_lambda": 0.5}, r"logit_lambda must lie in \[0, 0.5\), got 0.5"),
        ({"event_shape": (6, 4, 1), "encoder": "conv"}, "divisible by 4, got 6 x 4"),
        ({"partition": "middle"}, "partition must be one of"),
        ({"logit_lambda": "x"}, r"logit_lambda must lie in \[0, 0.5\), got 'x'"),
        ({"initial_raw_scale": "x"}, "initial_raw_scale must be a finite .* got 'x'"),
        ({"partition": "random", "seed": -1}, "seed must be at least 0, got -1"),
        ({"event_shape": (1,), "latent_dim": 1}, r"no partition .* got shape \(1,\)"),
        ({"prior_flow": "glow"}, "A flow must be"),
    ],
)
def test_constructor_refuses(arguments, message):
    arguments = {"event_shape": (4, 4, 1), "latent_dim": 3, **arguments}
    with pytest.raises(ValueError, match=message):
        PartitionedAEF(**arguments)


def test_expanded_may_have_more_latents_than_pixels():
    model = ExpandedAEF(
        (3,), 5, core_flow=small_flow(5), prior_flow="none", dtype="float64"
    )
    assert model.joint_log_prob(np.zeros((2, 3))).shape == (2,)


def test_expanded_has_no_log_prob_and_says_what_it_has():
    model = image_model(ExpandedAEF)
    with pytest.raises(AttributeError, match=r"marginal_log_prob.*joint_log_prob"):
        model.log_prob(np.zeros((1, 4, 4, 1)))
    for scale in (0.0, "x", [1.0, 2.0], 1e-60):
        with pytest.raises(ValueError, match=r"proposal_scale must be .* got [01'\[]"):
            model.marginal_log_prob(np.zeros((1, 4, 4, 1)), proposal_scale=scale)
        with pytest.raises(ValueError, match=r"proposal_scale must be .* got [01'\[]"):
            model.set_proposal_scale("encoder", scale)
    with pytest.raises(ValueError, match=r"'encoder' and 'laplace', got \[1\]"):
        ExpandedAEF((4, 4, 1), 3, proposal_scales=[1])
    with pytest.raises(ValueError, match="num_samples must be at least 1, got 0"):
        model.marginal_log_prob(np.zeros((1, 4, 4, 1)), 0)
    with pytest.raises(ValueError, match="expansion must be 'linear' or a Keras"):
        ExpandedAEF((4, 4, 1), 3, expansion="quadratic")
    with pytest.raises(ValueError, match=r"expansion must return \[batch, 3\], got"):
        ExpandedAEF((4, 4, 1), 3, expansion=keras.layers.Flatten())


def test_a_negative_scale_of_a_users_encoder_is_found():
    inputs = keras.Input((4, 4, 1))
    features = keras.layers.Flatten()(inputs)
    heads = [
        keras.layers.Dense(3)(features),
        keras.layers.Dense(3, bias_initializer=keras.initializers.Constant(-5.0))(
            features
        ),
    ]
    model = PartitionedAEF((4, 4, 1), 3, encoder=keras.Model(inputs, heads))
    with pytest.raises(ValueError, match="encoder's second output is a scale and must"):
        model.adapt(np.zeros((8, 4, 4, 1), np.uint8))


# What users do that works, but not as they expect.


@pytest.mark.parametrize("jit_compile", [None, True, False])
def test_sampling_is_compiled_as_training_is(jit_compile):
    model = small_model(PartitionedAEF, (6,), 2, dtype="float32")
    expected = jit_compile
    if jit_compile is None:
        # Keras's rule for "auto" looks at the whole process.
        expected = model.jit_compile
    else:
        model.compile(keras.optimizers.Adam(1e-3), jit_compile=jit_compile)
    model.sample(3)
    (trace,) = model._sample._function._list_all_concrete_functions()
    library = trace.graph.as_graph_def().library
    assert expected == any(f.attr["_XlaMustCompile"].b for f in library.function)


def test_a_network_of_two_models_gets_a_warning():
    encoder, decoder = dense_encoder((5,), (6,)), dense_decoder(2, (5,))
    first = Autoencoder((5,), 2, encoder=encoder, decoder=decoder, name="first")
    with pytest.warns(UserWarning, match="decoder is part of the model 'first', too"):
        Autoencoder((5,), 2, encoder="dense", decoder=decoder)
    clone = keras.models.clone_model(encoder)
    Autoencoder((5,), 2, encoder=clone, decoder="dense")
    del first


def bounded_by_operation():
    z = keras.Input((2,))
    x = keras.layers.Dense(16)(z)
    return keras.Model(z, keras.ops.reshape(keras.ops.sigmoid(x), (-1, 4, 4, 1)))


def bounded_location():
    z = keras.Input((2,))
    loc, raw = (keras.layers.Dense(16)(z) for _ in range(2))
    shape = keras.layers.Reshape((4, 4, 1))
    return keras.Model(z, (shape(keras.ops.tanh(loc)), shape(keras.ops.softplus(raw))))


@pytest.mark.parametrize(
    ("last", "decoder"),
    [
        ("sigmoid", lambda: [keras.layers.Dense(16, "sigmoid")]),
        ("tanh", lambda: [keras.layers.Dense(16, "tanh")]),
        ("relu", lambda: [keras.layers.Dense(16), keras.layers.ReLU()]),
        (
            "sigmoid",
            lambda: [keras.layers.Dense(16, "sigmoid"), keras.layers.Rescaling(255.0)],
        ),
        ("sigmoid", bounded_by_operation),
        ("tanh", bounded_location),
    ],
)
def test_a_bounded_decoder_of_logits_gets_a_warning(last, decoder):
    network = decoder()
    if isinstance(network, list):
        network = keras.Sequential([*network, keras.layers.Reshape((4, 4, 1))])
    arguments = {"core_flow": "none", "prior_flow": "none", "encoder": "dense"}
    with pytest.warns(UserWarning, match=f"ends in {last}, but it predicts logits"):
        PartitionedAEF((4, 4, 1), 2, decoder=network, **arguments)
    real = keras.models.clone_model(network)
    Autoencoder((4, 4, 1), 2, encoder="dense", decoder=real, logit_lambda=None)


def dividing(divide):
    image = keras.Input((4, 4, 1))
    return keras.Model(image, divide(image))


@pytest.mark.parametrize(
    ("first", "divisor"),
    [
        (lambda: keras.layers.Rescaling(1 / 127.5, offset=-1.0), "127.5"),
        (lambda: keras.layers.Normalization(mean=33.0, variance=6400.0), "80"),
        (lambda: dividing(lambda x: keras.ops.cast(x, "float32") / 255), "255"),
        (lambda: dividing(lambda x: (x - 127.5) * 0.01), "100"),
    ],
)
def test_an_encoder_for_pixels_gets_a_warning(first, divisor):
    layers = keras.layers
    inner = keras.Sequential([first(), layers.Conv2D(2, 3, name="conv")])
    encoder = keras.Sequential([layers.Reshape((4, 4, 1)), inner, layers.Flatten()])
    with pytest.warns(UserWarning, match=f"divides by {divisor}, but it gets logits"):
        Autoencoder((4, 4, 1), 2, encoder=encoder, decoder="dense")
    real = keras.models.clone_model(encoder)
    Autoencoder((4, 4, 1), 2, encoder=real, decoder="dense", logit_lambda=None)


def test_networks_that_are_for_logits_get_no_warning():
    layers = keras.layers
    encoder = keras.Sequential(
        [layers.Rescaling(0.5), layers.Flatten(), layers.Dense(4, "relu")]
    )
    z = keras.Input((2,))
    flat = layers.Dense(16)(layers.Dense(16, "relu")(z))
    scale = layers.Dense(16, "softplus")(z)
    shape = layers.Reshape((4, 4, 1))
    decoder = keras.Model(z, (shape(flat), shape(scale)))
    # A warning would be an error.
    Autoencoder((4, 4, 1), 2, encoder=encoder, decoder="dense")
    PartitionedAEF((4, 4, 1), 2, encoder="dense", decoder=decoder)


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ({"a": 2, "b": 2}, r"pair \(location, scale\), got a dict with keys 'a', 'b'"),
        ([2, 2, 2], "leave out the sampled latents"),
    ],
)
def test_encoders_with_other_outputs_are_refused(encoder, message):
    inputs = keras.Input((5,))
    outputs = keras.tree.map_structure(lambda n: keras.layers.Dense(n)(inputs), encoder)
    network = keras.Model(inputs, outputs)
    with pytest.raises(ValueError, match=message):
        Autoencoder((5,), 2, encoder=network, decoder="dense")
    with pytest.raises(ValueError, match=message):
        ExpandedAEF((5,), 2, encoder=network, decoder="dense")


def test_a_network_for_other_inputs_is_refused_in_one_line():
    with pytest.raises(ValueError, match=r"^The decoder does not take .* \[batch, 2\]"):
        Autoencoder((5,), 2, encoder="dense", decoder=dense_decoder(3, (5,)))
    decoder = keras.Sequential([keras.Input((3,)), keras.layers.Dense(5)])
    with pytest.raises(ValueError, match=r"Keras says: .*axis -1.* 3") as error:
        Autoencoder((5,), 2, encoder="dense", decoder=decoder)
    assert "\n" not in str(error.value)


def test_channels_come_last_also_if_that_was_set_late(monkeypatch):
    monkeypatch.setattr(keras.config, "image_data_format", lambda: "channels_first")
    with pytest.raises(ValueError, match="channels last, got image_data_format 'chan"):
        Autoencoder((5,), 2)


def test_half_precision_is_refused():
    with pytest.raises(ValueError, match="'mixed_float16' is not supported"):
        Autoencoder((5,), 2, dtype="mixed_float16")


@pytest.mark.parametrize("name", ["loss", "metrics"])
def test_compile_takes_no_loss(name):
    with pytest.raises(
        ValueError, match=f"takes no '{name}': the model brings its own"
    ):
        Autoencoder((5,), 2).compile(**{name: "mse"})


def test_lists_of_images_are_refused_by_their_name():
    model = Autoencoder((5,), 2)
    model.compile()
    with pytest.raises(ValueError, match=r"got a list of 2; join it with np\.stack"):
        model.fit([np.zeros(5), np.zeros(5)])


@pytest.mark.parametrize("cls", [PartitionedAEF, ExpandedAEF, VAE, PixelMAF])
def test_a_training_graph_holds_each_network_once(cls, monkeypatch):
    # A second copy costs no forward pass after compilation, but a whole backward pass.
    calls = Counter()
    for part in (MADE, GaussianEncoder, GaussianDecoder):

        def counted(self, x, original=part.call):
            calls[self] += 1
            return original(self, x)

        monkeypatch.setattr(part, "call", counted)
    if cls is PixelMAF:
        model = PixelMAF((4, 4, 1), num_layers=2, hidden_units=7)
    elif cls is VAE:
        model = VAE.from_aef(small_model(ExpandedAEF, (4, 4, 1), 3, dtype="float32"))
    else:
        model = small_model(cls, (4, 4, 1), 3, dtype="float32")
    networks = {
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, (MADE, GaussianEncoder, GaussianDecoder))
    }
    calls.clear()
    x = tf.TensorSpec([8, 4, 4, 1])
    tf.function(model.objective).get_concrete_function(x, tf.constant([0, 1]))
    assert calls == dict.fromkeys(networks, 1)
