"""Networks of users behave as in Keras: mode, statistics, noise, losses, dtypes."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_probability import bijectors as tfb

from aef_tfp import flows
from aef_tfp.engine.forward import run_layers
from aef_tfp.engine.noise import stateless_seed
from aef_tfp.export import export_saved_model
from aef_tfp.flows.checks import bijector_of
from aef_tfp.models import IWAE, VAE, Autoencoder, ExpandedAEF, PartitionedAEF

layers = keras.layers

IMAGES = np.random.default_rng(5).uniform(0.05, 0.95, (32, 4, 4, 1)).astype("float32")
VECTORS = np.random.default_rng(6).normal(size=(64, 6)).astype("float32")
VECTORS = (VECTORS - VECTORS.mean(0)) / VECTORS.std(0)

NO_FLOWS = {"core_flow": "none", "prior_flow": "none"}


def batches(images, batch_size=8):
    return tf.data.Dataset.from_tensor_slices(images).batch(batch_size)


def values(layer):
    return [w.numpy() for w in layer.weights]


class Spy(layers.Layer):
    """Notes the mode of each call."""

    def call(self, x, training=None):
        # Not in an attribute, since Keras copies lists.
        SPIED.append((self.name, training))
        return x


SPIED: list = []


class AtRest(layers.Layer):
    """Calls a part of its own with `training=False`, as a backbone is called."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = layers.Dropout(0.5)

    def call(self, x):
        return self.inner(x, training=False)


class SpiedFlow(layers.Layer):
    """A flow whose bijector calls a layer."""

    def __init__(self, size, **kwargs):
        super().__init__(**kwargs)
        self.shift = self.add_weight(name="shift", shape=(size,), initializer="zeros")
        self.spy = Spy(name="flow_spy")

    @property
    def bijector(self):
        return tfb.Shift(self.spy(tf.convert_to_tensor(self.shift)))


def spied_model(cls, **arguments):
    encoder = keras.Sequential(
        [keras.Input((4, 4, 1)), layers.Flatten(), AtRest(), Spy(name="encoder_spy")]
    )
    decoder = keras.Sequential(
        [
            keras.Input((2,)),
            Spy(name="decoder_spy"),
            layers.Dense(16),
            layers.Reshape((4, 4, 1)),
        ]
    )
    return cls(
        (4, 4, 1),
        2,
        encoder=encoder,
        decoder=decoder,
        prior_flow=SpiedFlow(2),
        num_levels=17,
        **arguments,
    )


def expanded(**arguments):
    expansion = keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            layers.Flatten(),
            Spy(name="expansion_spy"),
            layers.Dense(2),
        ]
    )
    return spied_model(ExpandedAEF, core_flow="none", expansion=expansion, **arguments)


def partitioned(**arguments):
    return spied_model(PartitionedAEF, core_flow="none", **arguments)


def iwae(**arguments):
    return spied_model(IWAE, posterior_flow="none", noise_std=0.1, **arguments)


EACH_ONCE = [("decoder_spy", True), ("encoder_spy", True)]


@pytest.mark.parametrize(
    ("build", "compilation", "expected"),
    [
        (expanded, {}, [*EACH_ONCE, ("expansion_spy", True)]),
        (
            expanded,
            {"jit_compile": True, "rematerialize": True, "steps_per_execution": 2},
            [*EACH_ONCE, ("expansion_spy", True)],
        ),
        (partitioned, {"run_eagerly": True}, EACH_ONCE),
        (iwae, {}, EACH_ONCE),
    ],
)
def test_a_step_calls_each_network_once_in_training(build, compilation, expected):
    # Twice would move BatchNormalization's statistics twice, and drop other units in
    # the value than in the log-determinant.
    model = build()
    model.compile("sgd", **{"jit_compile": False, **compilation})
    model.adapt(IMAGES)
    SPIED.clear()
    model.fit(batches(IMAGES, 32), verbose=0)
    networks = sorted({call for call in SPIED if call[0] != "flow_spy"})
    assert networks == sorted(expected)
    per_trace = [call for call in SPIED if call[0] == "encoder_spy"]
    decoded = [call for call in SPIED if call[0] == "decoder_spy"]
    assert len(per_trace) == len(decoded) == 1
    assert {mode for name, mode in SPIED if name == "flow_spy"} == {True}


@pytest.mark.parametrize("replicas", [1, 2])
def test_training_reaches_layers_on_replicas_and_with_accumulation(replicas, mirrored):
    strategy = mirrored if replicas == 2 else tf.distribute.get_strategy()
    steps = None if replicas == 2 else 2
    with strategy.scope():
        model = partitioned()
        model.compile(
            keras.optimizers.SGD(1e-2, gradient_accumulation_steps=steps),
            jit_compile=False,
        )
    model.adapt(IMAGES)
    SPIED.clear()
    model.fit(batches(IMAGES), verbose=0)
    assert {mode for _, mode in SPIED} == {True}
    assert {name for name, _ in SPIED} == {"encoder_spy", "decoder_spy", "flow_spy"}


def test_layers_are_at_rest_everywhere_else():
    # What another call has traced is not called again: two have models of their own.
    model, predicting, encoding = expanded(), expanded(), expanded()
    for one in (model, predicting, encoding):
        one.compile("sgd", jit_compile=False)
        one.adapt(IMAGES)
    calls = {
        "evaluate": lambda: model.evaluate(IMAGES, verbose=0),
        "call": lambda: model(IMAGES),
        "predict": lambda: predicting.predict(IMAGES, verbose=0),
        "sample": lambda: model.sample(2, seed=1),
        "encode": lambda: encoding.encode(IMAGES),
        "joint_log_prob": lambda: model.joint_log_prob(IMAGES, seed=1),
        "marginal": lambda: model.marginal_log_prob(IMAGES[:2], 2, seed=1),
        "laplace": lambda: model.marginal_log_prob(
            IMAGES[:2], 2, proposal="laplace", seed=1
        ),
    }
    for name, call in calls.items():
        SPIED.clear()
        call()
        assert SPIED, name
        assert not any(mode for _, mode in SPIED), name
    # As in Keras, a call may ask for the other mode, and leaves no trace of it behind.
    SPIED.clear()
    model(IMAGES, training=True)
    assert {mode for name, mode in SPIED if name != "flow_spy"} == {True}
    SPIED.clear()
    model(IMAGES[:3])
    assert not any(mode for _, mode in SPIED)


class Penalty(layers.Layer):
    """Adds the mean square of what passes to the loss."""

    def call(self, x):
        self.add_loss(0.1 * keras.ops.mean(x**2))
        return x


def regularized_networks():
    keras.utils.set_random_seed(3)
    encoder = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, kernel_regularizer=keras.regularizers.L2(0.03)),
            layers.BatchNormalization(),
            layers.Activation("tanh", activity_regularizer="l1"),
            layers.Dense(5, kernel_constraint=keras.constraints.MaxNorm(0.3)),
            Penalty(),
        ]
    )
    frozen = layers.Dense(4, "tanh")
    frozen.trainable = False
    decoder = keras.Sequential(
        [
            keras.Input((2,)),
            layers.SpectralNormalization(layers.Dense(7)),
            frozen,
            layers.Dense(6, bias_regularizer="l2"),
        ]
    )
    return encoder, decoder


@pytest.mark.parametrize("compilation", [{}, {"run_eagerly": True}])
def test_a_step_is_that_of_the_same_network_in_plain_keras(compilation):
    # Least squares on standardized vectors, so that nothing else than the two networks
    # and one linear head is trained: statistics, penalties, constraints, what is frozen
    # and the spectral norm, all as in Keras's own step.
    encoder, decoder = regularized_networks()
    model = Autoencoder((6,), 2, encoder=encoder, decoder=decoder)
    model.adapt(VECTORS)
    model.preprocessing.trainable = False
    head = layers.Dense(2)
    own_encoder, own_decoder = regularized_networks()
    inputs = keras.Input((6,))
    plain = keras.Model(inputs, own_decoder(head(own_encoder(inputs))))
    head.set_weights(model.encoder.loc_head.get_weights())

    model.compile(keras.optimizers.SGD(0.2), **compilation)
    plain.compile(keras.optimizers.SGD(0.2), loss="mse")
    ours = model.fit(
        batches(VECTORS, 16), epochs=2, validation_data=VECTORS, verbose=0
    ).history
    theirs = plain.fit(
        VECTORS,
        VECTORS,
        batch_size=16,
        epochs=2,
        shuffle=False,
        validation_data=(VECTORS, VECTORS),
        verbose=0,
    ).history
    for one, other in ((encoder, own_encoder), (decoder, own_decoder)):
        for weight, expected in zip(one.weights, other.weights, strict=True):
            np.testing.assert_allclose(weight, expected, atol=2e-5, err_msg=weight.path)
    variance = next(w for w in encoder.weights if "moving_variance" in w.path)
    assert np.abs(variance.numpy() - 1.0).max() > 1e-2
    for name in ("loss", "val_loss"):
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-4)
        prefix = name.removesuffix("loss")
        np.testing.assert_allclose(
            np.array(ours[prefix + "mean_squared_error"])
            + ours[prefix + "regularization_loss"],
            ours[name],
            rtol=1e-5,
        )
    # What inference uses is what was learned, in a file, too.
    np.testing.assert_allclose(
        model.reconstruct(VECTORS), plain.predict(VECTORS, verbose=0), atol=1e-4
    )


def dropping_model(**arguments):
    keras.utils.set_random_seed(1)
    encoder = keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            layers.Flatten(),
            layers.Dense(8),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
        ]
    )
    decoder = keras.Sequential(
        [
            keras.Input((2,)),
            layers.GaussianNoise(0.3),
            layers.Dense(16),
            layers.Reshape((4, 4, 1)),
        ]
    )
    model = PartitionedAEF(
        (4, 4, 1), 2, encoder=encoder, decoder=decoder, **NO_FLOWS, **arguments
    )
    model.compile(keras.optimizers.Adam(1e-2), jit_compile=False)
    return model


def test_a_resumed_run_drops_and_normalizes_as_an_undisturbed_one(tmp_path):
    whole = dropping_model()
    whole.fit(batches(IMAGES), epochs=2, verbose=0)
    part = dropping_model()
    part.fit(batches(IMAGES), verbose=0)
    part.save(tmp_path / "part.keras")
    resumed = keras.saving.load_model(tmp_path / "part.keras")
    # The generators of another process are elsewhere.
    keras.utils.set_random_seed(99)
    np.testing.assert_array_equal(resumed.encode(IMAGES), part.encode(IMAGES))
    resumed.fit(batches(IMAGES), verbose=0)
    for one, other in zip(whole.weights, resumed.weights, strict=True):
        if "seed" not in other.path:
            np.testing.assert_array_equal(one, other, err_msg=one.path)


def test_evaluation_neither_drops_nor_learns_statistics():
    model = dropping_model()
    model.fit(batches(IMAGES), verbose=0)
    before = values(model)
    result = model.evaluate(IMAGES, verbose=0, return_dict=True)
    expected = -model.log_prob(IMAGES).numpy().mean()
    np.testing.assert_allclose(result["loss"], expected, rtol=1e-5)
    for old, new in zip(before, values(model), strict=True):
        np.testing.assert_array_equal(old, new)


class Mask(layers.Layer):
    """Keeps the mask that Dropout drew last, as a statistic."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dropout = layers.Dropout(0.5)
        self.mask = self.add_weight(
            name="mask", shape=(64,), initializer="zeros", trainable=False
        )

    def call(self, x, training=None):
        mask = self.dropout(tf.ones([64]), training=training)
        if training:
            self.mask.assign(mask)
        return x * tf.reduce_mean(mask)


def masked_model():
    encoder = keras.Sequential([keras.Input((4, 4, 1)), layers.Flatten(), Mask()])
    model = PartitionedAEF((4, 4, 1), 2, encoder=encoder, decoder="dense", **NO_FLOWS)
    model.compile(keras.optimizers.SGD(0.0), jit_compile=False)
    model.adapt(IMAGES)
    return model, encoder.layers[-1].mask


def test_noise_of_layers_follows_seed_and_step_and_differs_between_replicas(mirrored):
    model, mask = masked_model()
    drawn = []
    for images in (IMAGES[:8], IMAGES[:8]):
        model.fit(images, batch_size=8, verbose=0)
        drawn.append(mask.numpy())
    assert set(drawn[0]) == set(drawn[1]) == {0.0, 2.0}
    assert (drawn[0] != drawn[1]).any()
    again, same = masked_model()
    again.fit(IMAGES[:8], batch_size=8, verbose=0)
    np.testing.assert_array_equal(same, drawn[0])
    with mirrored.scope():
        both, mean = masked_model()
    both.fit(IMAGES[:8], batch_size=8, verbose=0)
    # The mean of two masks: a unit that one replica dropped and the other did not.
    assert set(mean.numpy()) == {0.0, 1.0, 2.0}


def test_statistics_of_replicas_are_the_mean_by_examples(mirrored):
    # 7 examples: replicas of 4 and 3. Each normalizes by its own, as in Keras.
    images = IMAGES[:7]
    with mirrored.scope():
        encoder = keras.Sequential(
            [keras.Input((4, 4, 1)), layers.Flatten(), layers.BatchNormalization()]
        )
        model = Autoencoder((4, 4, 1), 2, encoder=encoder, decoder="dense")
        model.compile(keras.optimizers.SGD(0.0))
    model.adapt(IMAGES)
    y = model.preprocessing.bijector.inverse(tf.identity(images)).numpy().reshape(7, -1)
    model.fit(batches(images, 7), verbose=0)
    norm = encoder.layers[-1]
    np.testing.assert_allclose(norm.moving_mean, 0.01 * y.mean(0), atol=1e-6)
    variance = (4 * y[:4].var(0) + 3 * y[4:].var(0)) / 7
    np.testing.assert_allclose(norm.moving_variance, 0.99 + 0.01 * variance, atol=1e-6)


def test_a_skipped_step_leaves_statistics_alone():
    model = dropping_model()
    model.adapt(IMAGES)
    before = values(model)
    images = IMAGES[:8].copy()
    images[0] = np.nan
    history = model.fit(batches(images), verbose=0).history
    assert history["skipped_updates"] == [1.0]
    for old, new in zip(before, values(model), strict=True):
        np.testing.assert_array_equal(old, new)


def test_the_density_keeps_its_name_and_value_beside_penalties():
    encoder = keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            layers.Flatten(),
            layers.Dense(3, kernel_regularizer="l2"),
        ]
    )
    model = PartitionedAEF(
        (4, 4, 1), 2, encoder=encoder, decoder="dense", num_levels=17, **NO_FLOWS
    )
    model.compile("sgd", jit_compile=False)
    model.adapt(IMAGES)
    logs = model.evaluate(IMAGES, batch_size=12, verbose=0, return_dict=True)
    log_prob = model.log_prob(IMAGES).numpy()
    penalty = 0.01 * (encoder.layers[-1].kernel.numpy() ** 2).sum()
    np.testing.assert_allclose(logs["regularization_loss"], penalty, rtol=1e-5)
    np.testing.assert_allclose(logs["loss"], penalty - log_prob.mean(), rtol=1e-5)
    np.testing.assert_allclose(
        logs["bits_per_dim"], model.bits_per_dim(log_prob).mean(), rtol=1e-5
    )


def test_penalties_count_once_whatever_the_number_of_replicas(mirrored):
    results = []
    for strategy in (tf.distribute.get_strategy(), mirrored):
        with strategy.scope():
            encoder, decoder = regularized_networks()
            encoder.layers[1].trainable = False  # statistics of a replica are its own
            model = Autoencoder((6,), 2, encoder=encoder, decoder=decoder)
            model.compile(keras.optimizers.SGD(0.1))
        history = model.fit(batches(VECTORS, 15), verbose=0).history
        results.append((values(model), history))
    (one, one_logs), (two, two_logs) = results
    for first, second in zip(one, two, strict=True):
        np.testing.assert_allclose(first, second, atol=1e-5)
    for name, value in one_logs.items():
        np.testing.assert_allclose(value, two_logs[name], rtol=1e-4, err_msg=name)


def test_frozen_layers_stay_frozen_in_files(tmp_path):
    flow = {"num_layers": 1, "hidden_units": 4, "num_blocks": 1}
    model = VAE(
        (4, 4, 1),
        2,
        encoder="dense",
        decoder="dense",
        prior_flow=flows.MAF(2, **flow),
        posterior_flow="none",
    )
    model.encoder.trainable = False
    model.encoder.scale_head.trainable = True
    model.preprocessing.trainable = False
    model.decoder.network.layers[0].trainable = False
    model.compile("adam", jit_compile=False)
    model.fit(IMAGES, verbose=0)
    model.save(tmp_path / "model.keras")
    copy = keras.saving.load_model(tmp_path / "model.keras")
    assert [layer.trainable for layer in copy._flatten_layers()] == [
        layer.trainable for layer in model._flatten_layers()
    ]
    before = values(copy.preprocessing) + values(copy.encoder.network)
    moving = values(copy.encoder.scale_head)
    copy.fit(IMAGES, verbose=0)
    after = values(copy.preprocessing) + values(copy.encoder.network)
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)
    assert (values(copy.encoder.scale_head)[0] != moving[0]).any()


def test_half_precision_reaches_no_density_in_any_method(tmp_path):
    networks = {"encoder": "dense", "decoder": "dense", "dtype": "mixed_bfloat16"}
    model = PartitionedAEF((4, 4, 1), 2, **networks, **NO_FLOWS)
    model.compile("adam", jit_compile=False)
    # Half precision would round these to 1, or to a few values.
    images = 0.99 + 0.0099 * IMAGES
    model.fit(images, verbose=0)
    # First: what `reconstruct` has traced would serve them.
    others = model(images), model.predict(images, verbose=0)
    expected = model.reconstruct(images)
    for other in others:
        np.testing.assert_array_equal(expected, other)
        assert other.dtype == expected.dtype == "float32"
    log_prob = model.log_prob(images)
    assert log_prob.dtype == "float32"
    loss = model.evaluate(images, verbose=0, return_dict=True)["loss"]
    np.testing.assert_allclose(loss, -log_prob.numpy().mean(), rtol=1e-6)
    assert model.sample(2, seed=0).dtype == "float32"
    differences = model.export(tmp_path / "exported")
    assert max(differences.values()) < 1e-2
    # Networks compute in half precision, preprocessing does not.
    y = model.preprocessing.bijector.inverse(tf.identity(images))
    full = tf.math.log(images / (1.0 - images))
    norm = model.preprocessing.flows[-1]
    np.testing.assert_allclose(y, full * tf.exp(norm.log_scale) + norm.shift, atol=0.02)


@pytest.mark.parametrize("scaling", ["factor", "optimizer"])
def test_the_gradient_norm_is_that_of_the_true_gradient(scaling):
    # Clipping is active, and is that of the true gradient, too.
    results = []
    for scaled in (False, True):
        keras.utils.set_random_seed(0)
        model = Autoencoder((6,), 2, encoder="dense", decoder="dense")
        factor = 64.0 if scaled and scaling == "factor" else None
        optimizer = keras.optimizers.SGD(
            0.1, global_clipnorm=0.05, loss_scale_factor=factor
        )
        if scaled and scaling == "optimizer":
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer, 64.0)
        model.compile(optimizer, jit_compile=False)
        history = model.fit(batches(VECTORS, 16), verbose=0).history
        results.append((values(model), history["gradient_norm"]))
    np.testing.assert_allclose(results[0][1], results[1][1], rtol=1e-5)
    assert results[0][1][0] > 0.05
    for one, other in zip(results[0][0], results[1][0], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_a_loss_scale_that_overflows_comes_down(mirrored):
    for strategy in (tf.distribute.get_strategy(), mirrored):
        with strategy.scope():
            keras.utils.set_random_seed(0)
            model = Autoencoder((6,), 2, encoder="dense", decoder="dense")
            optimizer = keras.optimizers.LossScaleOptimizer(
                keras.optimizers.SGD(0.1), initial_scale=1e38
            )
            model.compile(optimizer)
        before = values(model.decoder)
        history = model.fit(batches(10 * VECTORS, 8), epochs=2, verbose=0).history
        skipped = int(sum(history["skipped_updates"]))
        assert 0 < skipped < 16
        assert int(optimizer.iterations.numpy()) == 16 - skipped
        assert (values(model.decoder)[0] != before[0]).any()


class Copied(layers.Layer):
    """Makes its bijector too early: TFP copies the value of a Keras variable."""

    def __init__(self):
        super().__init__()
        self.scale = self.add_weight(name="scale", shape=(2,), initializer="zeros")
        self.bijector = tfb.Scale(log_scale=self.scale)


class Foreign(layers.Layer):
    """Its bijector has a variable of its own."""

    def __init__(self):
        super().__init__()
        self.bijector = tfb.Shift(tf.Variable([0.0, 0.0], name="unowned"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prior_flow": Copied()}, "does not depend on weights of the layer .*scale"),
        ({"core_flow": Foreign()}, r"does not own \(unowned:0\).* self\.add_weight"),
        (
            {"core_flow": flows.Stack([Foreign()])},
            r"does not own \(unowned:0\).* self\.add_weight",
        ),
        (
            {"encoder": keras.Sequential([layers.Dense(3, dtype="float16")])},
            "encoder's layer 'dense.*' computes in float16",
        ),
        (
            {"expansion": keras.Sequential([layers.Dense(2, dtype="mixed_float16")])},
            "expansion's layer 'dense.*' computes in float16",
        ),
    ],
)
def test_what_cannot_be_honoured_is_refused_when_the_model_is_built(arguments, message):
    arguments = {"encoder": "dense", "decoder": "dense", **NO_FLOWS, **arguments}
    with pytest.raises(ValueError, match=message) as error:
        ExpandedAEF((4,), 2, **arguments)
    assert "\n" not in str(error.value)


def test_weights_set_by_hand_are_not_adapted_anew(capsys):
    def model():
        flow = {"num_layers": 1, "hidden_units": 4, "num_blocks": 1}
        model = PartitionedAEF(
            (4, 4, 1),
            2,
            encoder="dense",
            decoder="dense",
            core_flow="none",
            prior_flow=flows.MAF(2, **flow),
        )
        model.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
        return model

    trained = model()
    trained.fit(IMAGES, verbose=2)
    assert "ActNorm initialized from 32 examples" in capsys.readouterr().out
    # All weights: nothing is left to initialize.
    loaded = model()
    loaded.set_weights(trained.get_weights())
    loaded.fit(IMAGES[:8] * 0.5, verbose=2)
    assert "ActNorm" not in capsys.readouterr().out
    for one, other in zip(values(trained), values(loaded), strict=True):
        np.testing.assert_array_equal(one, other)
    # A part: the rest is initialized, and the part named.
    partly = model()
    partly.prior_flow.set_weights(trained.prior_flow.get_weights())
    partly.fit(IMAGES[:8], verbose=2)
    out = capsys.readouterr().out
    assert "initialized from 8 examples" in out
    assert "set before, and kept: " in out
    for one, other in zip(
        values(trained.prior_flow), values(partly.prior_flow), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert partly.preprocessing.flows[-1].is_set
    # Called by hand, it means all.
    partly.adapt(IMAGES)
    assert any(
        (one != other).any()
        for one, other in zip(
            values(trained.prior_flow), values(partly.prior_flow), strict=True
        )
    )


def test_nothing_that_is_kept_goes_stale():
    flow = {"num_layers": 1, "hidden_units": 4, "num_blocks": 1}
    model = PartitionedAEF(
        (4, 4, 1),
        2,
        encoder="dense",
        decoder="dense",
        core_flow=flows.IAF(2, **flow),
        prior_flow=flows.MAF(2, **flow),
    )
    # The same tensors, which TFP's cache knows.
    x, z = tf.constant(IMAGES[:4]), tf.constant(IMAGES[:4, :2, 0, 0])

    def ask(model):
        distribution, prior = model.distribution, model.prior
        bijector = distribution.bijector
        squash = model.preprocessing.bijector
        core = model.core_flow.bijector
        return {
            "log_prob": lambda: distribution.log_prob(x),
            "inverse": lambda: bijector.inverse(x)[0],
            "inverse_log_det": lambda: bijector.inverse_log_det_jacobian(x, 3),
            "prior": lambda: prior.log_prob(z),
            "preprocessing": lambda: squash.inverse(x),
            "preprocessing_log_det": lambda: squash.inverse_log_det_jacobian(x, 3),
            "core": lambda: core.forward(z),
            "core_log_det": lambda: core.forward_log_det_jacobian(z, 1),
        }

    kept = ask(model)
    before = {name: call().numpy() for name, call in kept.items()}
    rng = np.random.default_rng(0)
    for weight in model.trainable_weights:
        weight.assign(weight + 0.3 * rng.normal(size=weight.shape))
    for name, call in ask(model).items():
        new = call().numpy()
        assert np.abs(new - before[name]).max() > 1e-3, name
        np.testing.assert_array_equal(kept[name](), new, err_msg=name)


def test_a_layer_without_a_seed_of_its_own_draws_anew_in_each_step():
    # Keras's global generator, whose state no model holds.
    def draw():
        return keras.random.normal([3])

    first, again, other = (
        run_layers(draw, [], training=True, seed=stateless_seed(seed)).result.numpy()
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).all()


def test_files_of_another_format_say_so(tmp_path):
    model = PartitionedAEF((4,), 2, encoder="dense", decoder="dense", **NO_FLOWS)
    config = model.get_config()
    del config["format"]
    with pytest.raises(
        ValueError, match=r"saved in format 1 .* train it anew"
    ) as error:
        PartitionedAEF.from_config(config)
    assert "\n" not in str(error.value)
    model.save_weights(tmp_path / "old.weights.h5")
    import h5py

    with h5py.File(tmp_path / "old.weights.h5", "r+") as file:
        found = []
        file.visit(lambda name: found.append(name) if name.endswith("format") else None)
        for name in found:
            del file[name]
    assert found
    model.set_weights([weight + 1 for weight in model.get_weights()])
    before = model.get_weights()
    for skip in (False, True):
        with pytest.raises(ValueError, match="saved in format 1") as error:
            model.load_weights(tmp_path / "old.weights.h5", skip_mismatch=skip)
        assert "\n" not in str(error.value)
        for weight, expected in zip(model.get_weights(), before, strict=True):
            np.testing.assert_array_equal(weight, expected)


class Coupling(layers.Layer):
    """A RealNVP whose conditioner takes exactly one batch axis."""

    def __init__(self, *inner, **kwargs):
        super().__init__(**kwargs)
        self.net = keras.Sequential(
            [keras.Input((2,)), layers.Dense(8, "tanh"), *inner, layers.Dense(4)]
        )

    @property
    def bijector(self):
        def shift_and_log_scale(x, units, **_):
            outputs = self.net(x)
            return outputs[..., :units], outputs[..., units:]

        return tfb.RealNVP(num_masked=2, shift_and_log_scale_fn=shift_and_log_scale)


def test_a_flow_of_the_user_drops_alike_in_value_and_log_determinant():
    flow = Coupling(layers.Dropout(0.5))

    def value_and_log_det():
        bijector, x = bijector_of(flow), tf.constant(VECTORS[:3, :4])
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            y = bijector.inverse(x)
        jacobian = tape.batch_jacobian(y, x, experimental_use_pfor=False)
        return bijector.inverse_log_det_jacobian(x, 1), jacobian

    for seed in (1, 2):
        result = run_layers(
            value_and_log_det,
            flow.trainable_variables,
            training=True,
            seed=stateless_seed(seed),
            repeated=flow.variables,
        ).result
        log_det, jacobian = (value.numpy() for value in result)
        expected = np.linalg.slogdet(jacobian)[1]
        np.testing.assert_allclose(log_det, expected, rtol=1e-4)
        assert np.abs(expected).max() > 1e-2


def test_a_flow_of_the_user_learns_once_in_a_step_of_any_model():
    # Also with several batch axes (a VAE's samples), which its network does not take.
    norm = layers.BatchNormalization()
    flow = Coupling(norm)
    model = VAE(
        (4, 4, 1),
        4,
        encoder="dense",
        decoder="dense",
        prior_flow=flows.Stack([flow]),
        posterior_flow="none",
    )
    model.compile(keras.optimizers.SGD(0.0), jit_compile=False)
    model.fit(batches(IMAGES), verbose=0)
    # Four steps from 1 towards the variance v: all of them shrink the distance once.
    once = 1.0 - 0.99**4
    distance = 1.0 - norm.moving_variance.numpy()
    variance_of_tanh = 1.0 - distance / once
    assert (variance_of_tanh > -0.05).all()
    assert model.marginal_log_prob(IMAGES[:2], 3, seed=0).shape == (2,)
    assert norm.moving_mean.numpy().any()


def test_another_bijector_of_the_same_variables_is_not_taken_for_the_former():
    class Scaled(flows.Flow):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.log = self.add_weight(name="log", shape=(2,), initializer="zeros")
            self.built = True

        @property
        def bijector(self):
            return tfb.Scale(log_scale=self.log.value)

    arguments = {"encoder": "dense", "decoder": "dense", "core_flow": "none"}
    model = PartitionedAEF((4,), 2, prior_flow=Scaled(), **arguments)
    z = tf.constant([[0.3, 0.2]])
    kept = model.prior
    kept.log_prob(z)
    model.prior_flow.log.assign([0.5, 0.5])
    # -log 2 pi - (0.3^2 + 0.2^2) exp(-1) / 2 - 1, and its gradient by log.
    for prior in (kept, model.prior):
        with tf.GradientTape() as tape:
            value = prior.log_prob(z)
        np.testing.assert_allclose(value, [-2.861789], rtol=1e-5)
        gradient = tape.gradient(value, model.prior_flow.log.value)
        expected = np.array([0.09, 0.04]) * np.exp(-1.0) - 1.0
        np.testing.assert_allclose(gradient, expected, rtol=1e-5)


def test_accumulated_steps_have_noise_of_their_own():
    model = PartitionedAEF(
        (4, 4, 1), 2, encoder="dense", decoder="dense", noise_std=0.3, **NO_FLOWS
    )
    sgd = keras.optimizers.SGD(0.0, gradient_accumulation_steps=4)
    model.compile(sgd, jit_compile=False)
    losses = [
        model.fit(IMAGES[:8], batch_size=8, verbose=0).history["loss"][0]
        for _ in range(4)
    ]
    assert len(set(losses)) == 4


class Counter(layers.Layer):
    """State of several types, assigned in training."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        options = {"shape": (), "initializer": "zeros", "trainable": False}
        self.count = self.add_weight(name="count", dtype="int32", **options)
        self.value = self.add_weight(name="value", dtype="float32", **options)
        self.seen = self.add_weight(name="seen", dtype="bool", **options)

    def call(self, x, training=None):
        if training:
            self.count.assign(self.count + 1)
            self.value.assign(tf.constant(1001.0))
            self.seen.assign(True)
        return x


@pytest.mark.parametrize("replicas", [1, 2])
def test_state_of_any_type_is_kept_as_it_is(replicas, mirrored):
    strategy = mirrored if replicas == 2 else tf.distribute.get_strategy()
    with strategy.scope():
        counter = Counter(dtype="mixed_bfloat16")
        encoder = keras.Sequential(
            [
                keras.Input((6,)),
                counter,
                layers.SpectralNormalization(layers.Dense(3), dtype="mixed_bfloat16"),
                layers.BatchNormalization(),
            ]
        )
        model = Autoencoder((6,), 2, encoder=encoder, decoder="dense")
        model.compile("sgd", jit_compile=False)
    model.fit(batches(VECTORS, 16), verbose=0)
    assert counter.count.numpy() == 4
    # Half precision has 1000 and 1004.
    assert counter.value.numpy() == 1001.0
    assert bool(counter.seen.numpy())


class Recomputed(layers.Layer):
    """Computes its inner layers once more for the gradient."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm = layers.BatchNormalization()
        self.dropout = layers.Dropout(0.5)
        self.dense = layers.Dense(4)

    def build(self, input_shape):
        self.norm.build(input_shape)
        self.dense.build(input_shape)

    def call(self, x, training=None):
        def inner(x):
            x = self.norm(x, training=training)
            return self.dense(self.dropout(x, training=training))

        return keras.remat(inner)(x)


def test_layers_that_are_recomputed_draw_the_same_and_learn_once():
    layer = Recomputed()
    encoder = keras.Sequential([keras.Input((6,)), layer])
    model = Autoencoder((6,), 2, encoder=encoder, decoder="dense")
    model.compile(keras.optimizers.SGD(0.0), jit_compile=False)
    model.adapt(VECTORS)
    generator = layer.dropout.seed_generator.state.numpy()
    x = tf.constant(VECTORS[:16])
    gradients, *_ = model._gradient_step(x)
    place = [v is layer.dense.kernel for v in model.trainable_variables].index(True)
    # The gradient by the kernel of what was dropped is zero, in the same entries as the
    # output that the loss saw: by finite differences of the loss itself.
    seed = model._step_seed(0, 0, None)

    def loss():
        return -tf.reduce_mean(model._run(x, seed, training=True).result).numpy()

    kernel = layer.dense.kernel.numpy()
    bump = np.zeros_like(kernel)
    bump[2, 1] = 2e-3
    layer.dense.kernel.assign(kernel + bump)
    above = loss()
    layer.dense.kernel.assign(kernel - bump)
    slope = (above - loss()) / 4e-3
    np.testing.assert_allclose(gradients[place][2, 1], slope, rtol=0.05, atol=1e-5)
    layer.dense.kernel.assign(kernel)
    images = VECTORS[:16].copy()
    images[0] = np.nan
    model.fit(batches(images, 16), verbose=0)
    assert not layer.norm.moving_mean.numpy().any()
    np.testing.assert_array_equal(layer.dropout.seed_generator.state, generator)


def test_a_larger_model_keeps_its_own_mode_and_ours():
    class Larger(keras.Model):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner
            self.dropout = layers.Dropout(0.9)

        def call(self, x, training=None):
            return self.dropout(self.inner.encode(x))

    model = PartitionedAEF(
        (4, 4, 1),
        4,
        encoder="dense",
        decoder="dense",
        core_flow=Coupling(layers.Dropout(0.5)),
        prior_flow="none",
    )
    model.adapt(IMAGES)
    latents = Larger(model)(IMAGES, training=True).numpy()
    assert (latents == 0.0).mean() > 0.5
    # What was traced there is at rest.
    np.testing.assert_array_equal(model.encode(IMAGES), model.encode(IMAGES))


@pytest.mark.parametrize(
    ("dtype", "other"), [("float64", "float32"), ("float32", "float64")]
)
def test_flows_have_the_dtype_of_the_densities(dtype, other):
    flow = flows.MAF(2, num_layers=1, hidden_units=4, dtype=other, name="mine")
    message = f"The flow 'mine' is of {other}, .* are of {dtype}; build it"
    with pytest.raises(ValueError, match=message):
        PartitionedAEF((4,), 2, prior_flow=flow, dtype=dtype)
    # Of one without weights it does not matter.
    PartitionedAEF((4,), 2, prior_flow=flows.Identity(dtype=other), dtype=dtype)


def test_what_was_frozen_in_a_vae_is_frozen_in_its_aef():
    vae = VAE((4,), 2, encoder="dense", decoder="dense")
    vae.encoder.loc_head.trainable = False
    vae.prior_flow.trainable = False
    vae.posterior_flow.flow.stack.flows[1].trainable = False
    aef = ExpandedAEF.from_vae(vae)
    back = VAE.from_aef(aef)
    for model in (aef, back):
        assert not model.encoder.loc_head.trainable
        assert model.encoder.scale_head.trainable
        assert not model.prior_flow.trainable_weights
        count = len(vae.core_flow.trainable_weights)
        assert len(model.core_flow.trainable_weights) == count
        assert count < len(vae.core_flow.weights)


def normalized_vae(spread):
    normalization = layers.Normalization()
    normalization.adapt(VECTORS * spread + 2.0)
    encoder = keras.Sequential([keras.Input((6,)), normalization, layers.Dense(4)])
    flows_of = {"prior_flow": "none", "posterior_flow": "none"}
    vae = VAE((6,), 2, encoder=encoder, decoder="dense", **flows_of)
    vae.adapt(VECTORS)
    vae.compile(keras.optimizers.SGD(1e-3), jit_compile=False)
    return vae


def test_loaded_weights_of_a_normalization_reach_graphs_of_before(tmp_path):
    expected, vae = normalized_vae(3.0), normalized_vae(1.0)
    expected.save_weights(tmp_path / "other.weights.h5")

    def results(model):
        return [
            model.encode(VECTORS).numpy(),
            model.predict(VECTORS, verbose=0),
            model.evaluate(VECTORS, verbose=0),
        ]

    results(vae)
    vae.load_weights(tmp_path / "other.weights.h5")
    for got, wanted in zip(results(vae), results(expected), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


def test_an_adapted_normalization_is_copied_and_exported(tmp_path):
    vae = normalized_vae(3.0)
    aef = ExpandedAEF.from_vae(vae)
    expected = vae.encoder(VECTORS)
    for model in (aef, VAE.from_aef(aef)):
        for got, wanted in zip(model.encoder(VECTORS), expected, strict=True):
            np.testing.assert_allclose(got, wanted, atol=1e-6)
    assert max(vae.export(tmp_path / "served").values()) < 1e-4


@keras.saving.register_keras_serializable("tests")
class Auxiliary(keras.Model):
    """Has a second head, for a loss in training alone."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden, self.head = layers.Dense(2), layers.Dense(1, name="head")

    def call(self, x, training=None):
        x = self.hidden(x)
        if training:
            self.add_loss(keras.ops.mean((self.head(x) - 1.0) ** 2))
        return x


# What Keras says of a model that leaves its layers to the first call.
@pytest.mark.filterwarnings("ignore:.build... was called on layer 'auxiliary")
@pytest.mark.parametrize("compilation", [{}, {"run_eagerly": True}])
def test_layers_that_are_called_in_training_alone_are_trained(compilation, tmp_path):
    model = ExpandedAEF(
        (6,),
        2,
        encoder=Auxiliary(),
        decoder="dense",
        expansion=Auxiliary(),
        **NO_FLOWS,
    )
    model.compile(keras.optimizers.Adam(1e-2), jit_compile=False, **compilation)
    heads = [model.encoder.network.head, model.expansion.head]
    before = [values(head) for head in heads]
    assert "regularization_loss" in model.fit(VECTORS, verbose=0).history
    for head, old in zip(heads, before, strict=True):
        assert np.abs(old[0] - values(head)[0]).max() > 1e-3
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(values(loaded.expansion.head)[0], values(heads[1])[0])


@pytest.mark.parametrize(
    ("cls", "name", "value"),
    [
        (PartitionedAEF, "prior_flow", flows.Identity()),
        (ExpandedAEF, "expansion", layers.Dense(2)),
        (VAE, "encoder", layers.Dense(2)),
        (VAE, "latent_dim", 3),
        (VAE, "decoder_scale", "fixed"),
        (Autoencoder, "num_levels", 17),
        (VAE, "chain", None),
    ],
)
def test_what_a_model_is_made_of_stays(cls, name, value):
    model = cls((4,), 2, encoder="dense", decoder="dense")
    before = model.get_config()
    message = f"{cls.__name__}.{name} is fixed when the model is made.*; make another"
    with pytest.raises(AttributeError, match=message) as error:
        setattr(model, name, value)
    assert "\n" not in str(error.value)
    assert model.get_config() == before


def test_what_a_model_has_may_be_set_by_a_class_that_extends_it():
    class Extended(VAE):
        def __init__(self, event_shape, latent_dim, num_levels):
            super().__init__(event_shape, latent_dim, encoder="dense", decoder="dense")
            self.event_shape, self.latent_dim = event_shape, latent_dim
            self.num_levels, self.encoder = num_levels, self.encoder

    assert Extended((4,), 2, None).latent_dim == 2
    with pytest.raises(AttributeError, match="num_levels is fixed"):
        Extended((4,), 2, 17)


class Transposed(layers.Layer):
    """Has a weight of another layer."""

    def __init__(self, dense):
        super().__init__()
        dense.build((None, 2))
        self.kernel = dense.kernel

    def call(self, x):
        return keras.ops.matmul(x, keras.ops.transpose(self.kernel))


class Looped(layers.Layer):
    """Drops inside a loop of the graph."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dropout = layers.Dropout(0.5)

    def call(self, x, training=None):
        return keras.ops.map(lambda row: self.dropout(row, training=training), x)


@keras.saving.register_keras_serializable("tests")
class Counting(layers.Layer):
    """Metrics of its own: examples, steps, and something with many thresholds."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.examples = keras.metrics.Sum(name="examples")
        # The name of a log of ours.
        self.largest = keras.metrics.Mean(name="loss")
        self.areas = keras.metrics.AUC(num_thresholds=3, name="areas")

    def call(self, x):
        first = keras.ops.cast(x[:, 0], "float32")
        self.examples.update_state(keras.ops.ones_like(first))
        self.largest.update_state(keras.ops.where(keras.ops.isnan(first), 1e9, 7.0))
        self.areas.update_state(keras.ops.cast(first > 0, "float32"), 0.0 * first)
        return x


def counting_model():
    encoder = keras.Sequential([keras.Input((6,)), Counting(name="counting")])
    return Autoencoder((6,), 2, encoder=encoder, decoder="dense")


@pytest.mark.parametrize(("replicas", "jit_compile"), [(1, True), (2, False)])
def test_metrics_of_layers_are_logged_and_begin_anew_with_each_epoch(
    replicas, jit_compile, mirrored
):
    strategy = mirrored if replicas == 2 else tf.distribute.get_strategy()
    with strategy.scope():
        model = counting_model()
        model.compile(keras.optimizers.SGD(0.0), jit_compile=jit_compile)
    history = model.fit(
        batches(VECTORS[:40], 16),
        validation_data=batches(VECTORS[40:], 16),
        epochs=2,
        verbose=0,
    ).history
    assert history["examples"] == [40, 40]
    assert history["val_examples"] == [24, 24]
    assert history["loss_1"] == history["val_loss_1"] == [7, 7]
    assert history["loss"][0] < 7
    assert model.evaluate(batches(VECTORS), verbose=0, return_dict=True)["areas"] == 0.5
    assert [m.name for m in model.metrics].count("examples") == 1
    # A checkpoint within an epoch.
    progress = model.get_progress()
    model.reset_metrics()
    model.set_progress(json.loads(json.dumps(progress)))
    assert model.get_progress() == progress
    assert model.get_metrics_result()["examples"] == 64


def test_metrics_of_layers_know_nothing_of_a_skipped_step():
    model = counting_model()
    model.compile(keras.optimizers.SGD(1e38), jit_compile=False)
    model.adapt(VECTORS)
    history = model.fit(batches(VECTORS, 16), epochs=1, verbose=0).history
    skipped = history["skipped_updates"][0]
    assert 0 < skipped < 4
    assert history["examples"] == [64 - 16 * skipped]


def test_a_model_with_metrics_in_its_layers_is_exported(tmp_path):
    model = counting_model()
    model.adapt(VECTORS)
    export_saved_model(model, tmp_path / "model")
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    codes = next(iter(loaded.encode(VECTORS).values()))
    np.testing.assert_allclose(codes, model.encode(VECTORS), rtol=1e-5)


def test_noise_inside_a_loop_of_the_graph_is_refused():
    encoder = keras.Sequential([keras.Input((6,)), Looped()])
    model = Autoencoder((6,), 2, encoder=encoder, decoder="dense")
    model.compile("sgd", jit_compile=False)
    with pytest.raises(ValueError, match="inside a loop or branch of a graph"):
        model.fit(VECTORS, verbose=0)


SHARED = layers.Dense(2, name="twice")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            lambda: {
                "prior_flow": Coupling(
                    layers.Activation("tanh", activity_regularizer="l2")
                )
            },
            "has layers that add losses",
        ),
        (
            lambda: {
                "prior_flow": Coupling(layers.SpectralNormalization(layers.Dense(8)))
            },
            "has layers that assign weights",
        ),
        (
            lambda: {
                "encoder": keras.Sequential([keras.Input((2,)), SHARED, SHARED]),
                "expansion": SHARED,
            },
            "'twice' is in both encoder and expansion",
        ),
        (
            lambda: {"decoder": Transposed(dense := layers.Dense(2)), "encoder": dense},
            "The weight 'kernel' is in both encoder and decoder",
        ),
    ],
)
def test_layers_that_would_count_twice_are_refused(arguments, message):
    shape, d = ((6,), 4) if "prior_flow" in arguments() else ((2,), 2)
    networks = {"encoder": "dense", "decoder": "dense", **NO_FLOWS, **arguments()}
    with pytest.raises(ValueError, match=message) as error:
        ExpandedAEF(shape, d, **networks)
    assert "\n" not in str(error.value)


def test_losses_that_are_no_scalars_are_summed():
    class Each(layers.Layer):
        def call(self, x):
            self.add_loss(keras.ops.mean(x**2, axis=0))
            return x

    encoder = keras.Sequential([keras.Input((6,)), Each()])
    model = Autoencoder((6,), 2, encoder=encoder, decoder="dense")
    model.compile(keras.optimizers.SGD(0.0), jit_compile=False)
    logs = model.fit(VECTORS, batch_size=64, verbose=0).history
    # Standardized: the mean square of each of six entries is 1.
    np.testing.assert_allclose(logs["regularization_loss"], [6.0], rtol=1e-4)


class Sampling(layers.Layer):
    """Draws latents, as the encoders of VAEs end."""

    def call(self, inputs):
        return inputs + 0.1 * keras.random.normal(keras.ops.shape(inputs))


@keras.saving.register_keras_serializable("tests")
class Steady(layers.Layer):
    """A user's layer that may draw, as far as anybody knows, and does not."""

    def call(self, inputs):
        return 2.0 * inputs


def sampled(x):
    return x + keras.random.normal(keras.ops.shape(x))


@pytest.mark.parametrize("role", ["encoder", "decoder", "expansion"])
@pytest.mark.parametrize(
    "noise",
    [Sampling, lambda: layers.Lambda(sampled, output_shape=lambda shape: shape)],
)
def test_a_network_that_draws_out_of_training_is_refused(role, noise):
    inputs = keras.Input((2,) if role == "decoder" else (6,))
    hidden = layers.Dense(6 if role == "decoder" else 2)(inputs)
    networks = {"encoder": "dense", "decoder": "dense"}
    networks[role] = keras.Model(inputs, noise()(hidden))
    with pytest.raises(ValueError, match=f"^The {role} draws noise out of") as error:
        ExpandedAEF((6,), 2, **NO_FLOWS, **networks)
    assert "\n" not in str(error.value)


def test_noise_in_training_and_layers_of_the_user_are_no_reason_to_refuse():
    encoder = keras.Sequential(
        [
            keras.Input((6,)),
            Steady(),
            layers.GaussianNoise(0.5),
            layers.Dense(4),
            layers.Dropout(0.5),
        ]
    )
    Autoencoder((6,), 2, encoder=encoder, decoder="dense")


class Unfit(layers.Layer):
    """Its inverse is another map than its forward direction undoes, or is random."""

    def __init__(self, noise=0.0, **kwargs):
        super().__init__(**kwargs)
        self.noise = noise
        self.shift = self.add_weight(name="shift", shape=(2,), initializer="zeros")

    @property
    def bijector(self):
        shift = tf.convert_to_tensor(self.shift)
        if self.noise:
            return tfb.Shift(shift + self.noise * keras.random.normal((2,)))

        def forward(x):
            return x + shift + 1.0

        return tfb.Inline(
            forward_fn=forward,
            inverse_fn=lambda y: y - shift,
            inverse_log_det_jacobian_fn=lambda y: tf.zeros(tf.shape(y)[:-1]),
            forward_min_event_ndims=1,
        )


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_a_flow_whose_directions_do_not_fit_is_refused(noise):
    networks = {"encoder": "dense", "decoder": "dense", "core_flow": "none"}
    prior_flow = flows.Stack([flows.ActNorm(2), Unfit(noise, name="unfit")])
    with pytest.raises(ValueError, match="'unfit' does not invert itself") as error:
        ExpandedAEF((6,), 2, prior_flow=prior_flow, **networks)
    assert "\n" not in str(error.value)
