"""Passes of bounded memory change no number, and counts that cannot end are refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from aef_tfp.engine.noise import starting_at, stateless_seed
from aef_tfp.engine.tracing import AnySize
from aef_tfp.inference import annealed_log_prob
from aef_tfp.models import IWAE, VAE, ExpandedAEF, PartitionedAEF, PixelMAF
from aef_tfp.networks.batching import PASS_ENTRIES, events_per_pass, pass_sizes

IMAGES = np.random.default_rng(0).integers(0, 17, (23, 4, 4, 1)).astype("uint8")


@pytest.fixture(scope="module")
def models():
    networks = {"encoder": "dense", "decoder": "dense", "num_levels": 17}
    pixel_maf = PixelMAF((4, 4, 1), num_layers=1, hidden_units=8, num_levels=17)
    kinds = (PartitionedAEF, ExpandedAEF, VAE)
    return {PixelMAF: pixel_maf, **{k: k((4, 4, 1), 2, **networks) for k in kinds}}


METHODS = {
    "log_prob": lambda m, x: m.log_prob(x, seed=1),
    "joint_log_prob": lambda m, x: m.joint_log_prob(x, seed=1),
    "elbo": lambda m, x: m.elbo(x, seed=1),
    "objective_terms": lambda m, x: m.objective_terms(x, seed=1),
    "encode": lambda m, x: m.encode(x),
    "reconstruct": lambda m, x: m.reconstruct(x),
    "predict": lambda m, x: m.predict(x, batch_size=len(x), verbose=0),
    "interpolate": lambda m, x: m.interpolate(x, x[::-1], 3),
    "marginal_log_prob": lambda m, x: m.marginal_log_prob(x, 3, seed=1),
}
CASES = [
    (PartitionedAEF, "log_prob"),
    (PixelMAF, "log_prob"),
    (ExpandedAEF, "joint_log_prob"),
    (VAE, "elbo"),
    (VAE, "objective_terms"),
    (VAE, "interpolate"),
]


@pytest.mark.parametrize(("cls", "method"), CASES)
def test_passes_change_no_number(cls, method, models, monkeypatch):
    compute, model = METHODS[method], models[cls]
    expected = compute(model, IMAGES)
    sizes = []
    monkeypatch.setattr(cls, "_events_per_pass", 7)
    monkeypatch.setattr(cls, "_latents_per_pass", 7, raising=False)
    call = AnySize.__call__

    def counted(self, x, *others):
        sizes.append(x.shape[0])
        return call(self, x, *others)

    monkeypatch.setattr(AnySize, "__call__", counted)
    got = compute(model, IMAGES)
    # Parts went through, and never all.
    assert sizes
    assert len(IMAGES) not in sizes
    tf.nest.map_structure(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5),
        got,
        expected,
    )


@pytest.mark.parametrize(("cls", "method"), [*CASES, (VAE, "predict")])
def test_another_number_of_events_is_not_traced_anew(cls, method, models, monkeypatch):
    compute, model = METHODS[method], models[cls]
    expected = compute(model, IMAGES[:5])
    # Called by Python alone.
    monkeypatch.delattr(type(model.events), "dequantize")
    got = compute(model, IMAGES[:4])
    if method != "interpolate":  # which begins with the last one
        tf.nest.map_structure(
            lambda a, b: np.testing.assert_allclose(a, b[:4], rtol=2e-5, atol=2e-5),
            got,
            expected,
        )


def test_a_graph_of_the_users_calls_methods_without_a_warning(models, caplog):
    # AutoGraph warns of what it cannot rewrite.
    got = tf.function(lambda x: models[VAE].elbo(x, seed=1))(IMAGES[:3])
    np.testing.assert_allclose(got, models[VAE].elbo(IMAGES[:3], seed=1), rtol=2e-5)
    assert not caplog.records


def test_what_is_no_tensor_is_left_to_tensorflow():
    shapes = []

    def function(x, factor):
        shapes.append(x.shape)
        return x * factor

    of_any_size = AnySize(tf.function(function, reduce_retracing=True))
    np.testing.assert_array_equal(
        of_any_size(np.ones([2, 3]), 2.0), 2.0 * np.ones([2, 3])
    )
    ragged = tf.ragged.constant([[1.0], [2.0, 3.0]])
    assert of_any_size(ragged, 2.0).to_list() == [[2.0], [4.0, 6.0]]
    for count in (4, 5):
        of_any_size(tf.ones([count, 3]), 2.0)
    assert shapes[-1].as_list() == [None, 3]
    assert len(shapes) == 3


@pytest.mark.parametrize("proposal", ["encoder", "laplace"])
def test_an_estimate_of_an_event_is_its_own(proposal, models, monkeypatch):
    model = models[ExpandedAEF]

    def estimate(x, place=0):
        seed = starting_at(stateless_seed(1), place)
        values = model.importance_estimate(
            x, 3, num_repeats=2, proposal=proposal, seed=seed
        )
        return np.array([values.log_prob, values.effective_sample_size])

    whole = estimate(IMAGES)
    parts = [estimate(IMAGES[:9]), estimate(IMAGES[9:], 9)]
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, rtol=1e-4)
    monkeypatch.setattr(ExpandedAEF, "_latents_per_pass", 7)
    np.testing.assert_allclose(estimate(IMAGES), whole, rtol=1e-4)


@pytest.mark.parametrize("cls", [PartitionedAEF, VAE, PixelMAF])
def test_samples_are_the_same_in_passes(cls, models, monkeypatch):
    kwargs = {} if cls is PixelMAF else {"with_deviations": True}
    expected = models[cls].sample(10, seed=3, **kwargs)
    monkeypatch.setattr(cls, "_events_per_pass", 4)
    got = models[cls].sample(10, seed=3, **kwargs)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_an_estimate_takes_events_in_passes(models, monkeypatch):
    model = models[VAE]
    shapes = []
    preprocessed = model._preprocessed
    monkeypatch.setattr(VAE, "_latents_per_pass", 16 * 7)
    monkeypatch.setattr(
        model,
        "_preprocessed",
        lambda x, seed: shapes.append(len(x)) or preprocessed(x, seed),
    )
    got = model.importance_estimate(IMAGES[:21], 2, proposal="laplace", seed=0)
    assert shapes == [7, 7, 7]
    # The second pass, with the noise of its place.
    expected = model.importance_estimate(
        IMAGES[7:14], 2, proposal="laplace", seed=starting_at(stateless_seed(0), 7)
    )
    np.testing.assert_allclose(got.log_prob[7:14], expected.log_prob, rtol=1e-5)


NO_EVENTS = [
    (VAE, "reconstruct"),
    # Their core comes out of a recursion.
    (PartitionedAEF, "reconstruct"),
    (PartitionedAEF, "decode"),
    (PartitionedAEF, "call"),
    (PartitionedAEF, "distribution"),
    (VAE, "laplace"),
    (VAE, "annealed"),
]
METHODS |= {
    "decode": lambda m, x: m.decode(np.zeros((len(x), 2))),
    "call": lambda m, x: m(x),
    "distribution": lambda m, x: m.distribution.sample(len(x)),
    "laplace": lambda m, x: m.marginal_log_prob(x, 3, proposal="laplace"),
    "annealed": lambda m, x: annealed_log_prob(m, x, num_steps=2).log_prob,
}


@pytest.mark.parametrize(("cls", "method"), [*CASES, *NO_EVENTS])
def test_no_events_give_no_values(cls, method, models):
    result = METHODS[method](models[cls], IMAGES[:0])
    assert {part.shape[0] for part in tf.nest.flatten(result)} == {0}


@pytest.mark.parametrize("shape", [(None, 4, 4, 1), None])
@pytest.mark.parametrize(
    ("cls", "method"),
    [
        (PartitionedAEF, "log_prob"),
        (VAE, "encode"),
        (VAE, "interpolate"),
        (VAE, "marginal_log_prob"),
    ],
)
def test_a_graph_need_not_know_the_shape(cls, method, shape, models):
    compute, model = METHODS[method], models[cls]
    signature = [tf.TensorSpec(shape, tf.uint8)]
    got = tf.function(lambda x: compute(model, x), input_signature=signature)(IMAGES)
    np.testing.assert_allclose(got, compute(model, IMAGES), rtol=2e-5, atol=2e-5)


def test_a_graph_finds_unequal_ends(models):
    interpolate = tf.function(
        models[VAE].interpolate,
        input_signature=[tf.TensorSpec((None, 4, 4, 1), tf.uint8)] * 2,
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match="equally many"):
        interpolate(IMAGES[:1], IMAGES)


def test_latents_of_a_graph_need_no_known_shape(models):
    model = models[VAE]
    z = model.encode(IMAGES)
    decode = tf.function(model.decode, input_signature=[tf.TensorSpec(None)])
    np.testing.assert_allclose(decode(z), model.decode(z), rtol=2e-5, atol=2e-5)


def test_no_events_have_no_estimate(models):
    assert models[VAE].marginal_log_prob(IMAGES[:0], 3).shape == (0,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.sample(10**12), "num_samples of 1,000,000,000,000 would take"),
        (lambda m: m.sample(10**400), "num_samples of 10,0"),
        (lambda m: m.interpolate(IMAGES, IMAGES, 10**12), "num_steps of 1,000,000,000"),
        (lambda m: m.marginal_log_prob(IMAGES, 10**12), "num_samples of 1,000,000,0"),
    ],
)
def test_absurd_counts_are_refused_at_once(call, message, models):
    with pytest.raises(ValueError, match=message) as error:
        call(models[VAE])
    assert "GB in this machine" in str(error.value)


def test_an_absurd_batch_is_refused_before_its_step(models, monkeypatch):
    model = models[VAE]
    # One event whose largest layer alone takes 2^50 bytes.
    monkeypatch.setattr(VAE, "_densities_per_pass", PASS_ENTRIES / 2**48)
    with pytest.raises(ValueError, match=r"A batch of 23 would take .* lower the"):
        model.check_batch(IMAGES, training=True)


def test_passes_are_of_nearly_equal_size():
    assert pass_sizes(10, 4) == [3, 3, 4]
    assert pass_sizes(8, 4) == [4, 4]
    assert pass_sizes(3, 4) == [3]
    assert pass_sizes(0, 4) == [0]
    assert sum(pass_sizes(1001, 7)) == 1001


def any_size(*last):
    layers = [keras.layers.Conv2D(5, 3, padding="same"), *last]
    return keras.Sequential([keras.Input((None, None, 1)), *layers])


@pytest.mark.parametrize(
    ("last", "entries"),
    [
        ([keras.layers.GlobalAveragePooling2D()], 4 * 6 * 5),
        # Behind strides, the images are smaller.
        ([keras.layers.Conv2D(16, 2, strides=2)], 4 * 6 * 5),
        ([keras.layers.Reshape((-1, 10))], 4 * 6 * 5),
        ([keras.layers.Conv2D(20, 3, padding="same")], 4 * 6 * 20),
    ],
)
def test_a_network_for_any_size_of_images_counts_as_for_this_one(last, entries):
    assert events_per_pass(any_size(*last), (4, 6, 1)) == PASS_ENTRIES // entries


def test_a_model_within_counts_with_all_its_layers():
    inner = any_size(keras.layers.GlobalAveragePooling2D())
    middle = keras.Sequential([keras.Input((4, 6, 1)), inner])
    outer = keras.Sequential([keras.Input((4, 6, 1)), middle, keras.layers.Dense(3)])
    assert events_per_pass(outer, (4, 6, 1)) == PASS_ENTRIES // (4 * 6 * 5)


class OfModels(keras.Model):
    """A model that says nothing of its inputs, and holds one for any size."""

    def __init__(self):
        super().__init__()
        self.inner = any_size(keras.layers.Conv2D(3, 1))

    def call(self, x):
        return self.inner(x)


@pytest.mark.parametrize("first", [OfModels, lambda: any_size()])
def test_models_for_any_size_count_within_others_whatever_they_say(first):
    inner, last = first(), keras.layers.GlobalAveragePooling2D()
    outer = keras.Sequential([keras.Input((4, 6, 1)), inner, last])
    for network in (outer, inner):
        assert events_per_pass(network, (4, 6, 1)) == PASS_ENTRIES // (4 * 6 * 5)


def widened(shape, size, width):
    layers = [keras.layers.Dense(width), keras.layers.Dense(size)]
    return keras.Sequential([keras.Input(shape), keras.layers.Flatten(), *layers])


@pytest.mark.parametrize(
    ("cls", "arguments", "entries"),
    [
        (PartitionedAEF, {}, 256),
        (PartitionedAEF, {"encoder": widened((4,), 2, 999)}, 999),
        (PartitionedAEF, {"decoder": widened((2,), 4, 999)}, 999),
        (ExpandedAEF, {"expansion": widened((4,), 2, 999)}, 999),
        (IWAE, {"num_importance_samples": 7}, 256),
    ],
)
def test_the_largest_of_all_networks_bounds_a_pass(cls, arguments, entries):
    networks = {"encoder": "dense", "decoder": "dense", "prior_flow": "none"}
    other = "posterior_flow" if cls is IWAE else "core_flow"
    model = cls((4,), 2, **{**networks, other: "none", **arguments})
    assert model._events_per_pass == PASS_ENTRIES // entries
    assert model._events_per_pass == PASS_ENTRIES // entries
    # As many samples as an IWAE has are decoded for each event.
    decoded = arguments.get("num_importance_samples", 1)
    assert model._densities_per_pass == PASS_ENTRIES // (entries * decoded)


def test_no_more_events_are_encoded_at_once_for_an_estimate(monkeypatch, rng):
    flat = {"prior_flow": "none", "posterior_flow": "none"}
    model = VAE((3,), 2, encoder="dense", decoder="dense", **flat)
    x = rng.normal(size=(10, 3))
    expected = model.marginal_log_prob(x, 2, seed=0)
    monkeypatch.setattr(VAE, "_events_per_pass", 4)
    sizes = []
    propose = model._encoder_proposal
    model._encoder_proposal = lambda y: sizes.append(len(y)) or propose(y)
    np.testing.assert_allclose(model.marginal_log_prob(x, 2, seed=0), expected, 1e-5)
    assert sizes == [3, 3, 4]


def test_an_encoder_for_any_size_of_images_trains():
    encoder = any_size(keras.layers.GlobalAveragePooling2D())
    networks = {"encoder": encoder, "decoder": "dense", "num_levels": 17}
    model = VAE((4, 4, 1), 2, prior_flow="none", posterior_flow="none", **networks)
    model.compile(keras.optimizers.SGD(1e-3), run_eagerly=True)
    before = encoder.get_weights()[0]
    model.fit(IMAGES, batch_size=23, verbose=0)
    assert (encoder.get_weights()[0] != before).any()
