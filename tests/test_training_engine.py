"""`fit` and its step: strategies, clipping, guard, noise, bad data."""

import contextlib
import gc

import keras
import numpy as np
import pytest
import tensorflow as tf
from calculus import perturb
from tensorflow.python.eager import context
from tensorflow.python.eager.polymorphic_function import polymorphic_function
from test_models import small_model

from aef_tfp import flows
from aef_tfp.engine import update
from aef_tfp.engine.diagnosis import describe_non_finite
from aef_tfp.engine.noise import (
    fold_seed,
    normal_noise,
    seeds_under,
    starting_at,
    stateless_seed,
    uniform_noise,
)
from aef_tfp.engine.tracing import traced
from aef_tfp.models import IWAE, VAE, Autoencoder, ExpandedAEF, PartitionedAEF
from aef_tfp.networks import dense_decoder, dense_encoder

FLOATS = np.random.default_rng(3).uniform(0.05, 0.95, (96, 4, 4, 1)).astype("float32")


def tiny(cls=PartitionedAEF, optimizer=None, has_flows=True, **compile_arguments):
    keras.utils.set_random_seed(0)
    flow = {"num_layers": 1, "hidden_units": 4, "num_blocks": 1}
    core, prior = (flows.MAF(2, **flow) if has_flows else "none" for _ in range(2))
    model = small_model(
        cls,
        (4, 4, 1),
        2,
        dtype="float32",
        num_levels=17,
        core_flow=core,
        prior_flow=prior,
    )
    arguments = {"jit_compile": False, **compile_arguments}
    model.compile(optimizer or keras.optimizers.Adam(1e-3), **arguments)
    return model


def plain(optimizer=None, is_perturbed=True, **compile_arguments):
    """A model without a density, for what is the same for all: a third of the time.

    The norm of its first gradient is 0.05, and no part of it is zero.
    """
    keras.utils.set_random_seed(0)
    encoder = dense_encoder((4, 4, 1), (6,))
    decoder = dense_decoder(2, (4, 4, 1), hidden_units=(6,))
    model = Autoencoder((4, 4, 1), 2, encoder=encoder, decoder=decoder, num_levels=17)
    if is_perturbed:
        perturb(model, np.random.default_rng(1), scale=0.2)
    arguments = {"jit_compile": False, **compile_arguments}
    model.compile(optimizer or keras.optimizers.Adam(1e-3), **arguments)
    return model


def batches(images, batch_size=16):
    return tf.data.Dataset.from_tensor_slices(images).batch(batch_size)


def weights(model):
    return [w.numpy() for w in model.trainable_weights]


def largest_difference(first, second):
    return max(np.abs(a - b).max() for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("cls", [PartitionedAEF, ExpandedAEF])
def test_every_weight_moves_in_two_steps(cls, digit_images):
    # The last layers of conditioners start at zero, and let no gradient through before
    # their first step.
    flow = {"num_layers": 2, "hidden_units": 32}
    core_flow, prior_flow = flows.MAF(3, **flow), flows.MAF(3, **flow)
    model = cls((8, 8, 1), 3, num_levels=17, core_flow=core_flow, prior_flow=prior_flow)
    model.compile(keras.optimizers.Adam(1e-3), jit_compile=False)
    model.adapt(digit_images)
    before = weights(model)
    model.fit(digit_images[:32], batch_size=16, verbose=0)
    for weight, old in zip(model.trainable_weights, before, strict=True):
        assert (weight.numpy() != old).any(), weight.path


def small_iwae():
    flow = {"num_layers": 1, "hidden_units": 4, "num_blocks": 1}
    return IWAE(
        (4, 4, 1),
        3,  # noise of an odd size: a replica's begins within a group of numbers
        num_levels=17,
        encoder="dense",
        decoder="dense",
        posterior_flow=flows.Inverted(flows.MAF(3, **flow)),
        prior_flow=flows.MAF(3, **flow),
        noise_std=0.1,
        seed=5,
    )


@pytest.mark.parametrize("kind", ["aef", "iwae"])
def test_one_and_two_replicas_make_equal_updates(kind, mirrored, monkeypatch):
    # Several vectors of weights, in these small models, too.
    monkeypatch.setattr(update, "_VECTOR_SIZE", 200)
    # SGD, because Adam hides a wrong factor; clipping that is active in every step;
    # batches of 15, which two replicas cannot share evenly, and a last one of 1. The
    # noise of dequantization, of corruption and of the posterior is the examples' own.
    images = (FLOATS[:91] * 17).astype(np.uint8)
    results = []
    for strategy in (tf.distribute.get_strategy(), mirrored):
        with strategy.scope():
            sgd = keras.optimizers.SGD(1e-2, global_clipnorm=1.0)
            if kind == "aef":
                model = tiny(optimizer=sgd, steps_per_execution=4)
            else:
                keras.utils.set_random_seed(0)
                model = small_iwae()
                model.compile(sgd, steps_per_execution=4)
        start = weights(model)
        history = model.fit(
            batches(images, 15),
            epochs=2,
            validation_data=batches(images, 15),
            verbose=0,
        ).history
        results.append((weights(model), history))
        assert min(history["gradient_norm"]) > 1.0
    assert largest_difference(results[0][0], start) > 1e-3
    assert largest_difference(results[0][0], results[1][0]) < 1e-6
    for name, values in results[0][1].items():
        np.testing.assert_allclose(values, results[1][1][name], rtol=1e-5, err_msg=name)


def test_an_optimizer_from_outside_the_scope_is_refused(mirrored):
    # Its count of steps would be raised once per replica.
    adam = keras.optimizers.Adam(1e-3, name="outsider")
    message = r"'outsider' was made outside .* make it inside strategy\.scope\(\)"
    with mirrored.scope(), pytest.raises(ValueError, match=message):
        plain(adam)


@pytest.mark.parametrize("sizes", [(), (3,), (2, 2, 1), (3, 3, 2)])
def test_noise_of_a_later_example_is_the_same_noise(sizes):
    seed = fold_seed(stateless_seed(4), 2)
    whole = normal_noise([11, *sizes], seed, tf.float32)
    streams = [
        normal_noise([11 - k, *sizes], starting_at(seed, k), tf.float32)
        for k in range(11)
    ]
    for k, part in enumerate(streams):
        np.testing.assert_allclose(part, whole[k:], rtol=1e-6)
    folded = fold_seed(starting_at(stateless_seed(4), 5), 2)
    np.testing.assert_array_equal(
        uniform_noise([6, *sizes], folded, tf.float32),
        uniform_noise([11, *sizes], seed, tf.float32)[5:],
    )


def test_a_strategy_of_one_replica_changes_nothing_compiled_or_not():
    results = []
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    for scope, jit_compile in (
        (contextlib.nullcontext(), False),
        (strategy.scope(), True),
    ):
        with scope:
            sgd = keras.optimizers.SGD(1.0, global_clipnorm=0.02)
            model = plain(sgd, jit_compile=jit_compile)
        start = weights(model)
        model.fit(batches(FLOATS[:32]), verbose=0)
        results.append(weights(model))
    assert largest_difference(*results) < 1e-6
    assert largest_difference(results[0], start) > 1e-3


@pytest.mark.parametrize("clipping", [{"clipnorm": 5e-3}, {"clipvalue": 1e-3}])
def test_other_clippings_agree_over_replicas_too(mirrored, clipping):
    results = []
    for strategy in (tf.distribute.get_strategy(), mirrored):
        with strategy.scope():
            model = plain(keras.optimizers.SGD(1.0, **clipping))
        start = weights(model)
        model.fit(batches(FLOATS[:32], 32), verbose=0)
        results.append(weights(model))
    assert largest_difference(*results) < 1e-6
    # They are at work.
    order, (limit,) = 2 if "clipnorm" in clipping else np.inf, clipping.values()
    for one, other in zip(results[0], start, strict=True):
        moved = np.linalg.norm((one - other).ravel(), order)
        assert moved == pytest.approx(limit, rel=1e-4)


def test_global_clipping_limits_the_whole_step():
    model = plain(keras.optimizers.SGD(1.0, global_clipnorm=0.01))
    model.adapt(FLOATS)
    before = weights(model)
    model.fit(FLOATS[:16], batch_size=16, verbose=0)
    moved = [a - b for a, b in zip(weights(model), before, strict=True)]
    np.testing.assert_allclose(
        np.sqrt(sum((m**2).sum() for m in moved)), 0.01, rtol=1e-3
    )


def test_accumulated_gradients_are_clipped_as_their_sum():
    moved = []
    for clip in (None, 0.01):
        sgd = keras.optimizers.SGD(
            1.0, global_clipnorm=clip, gradient_accumulation_steps=2
        )
        model = plain(sgd)
        model.adapt(FLOATS)
        before = weights(model)
        model.fit(batches(FLOATS[:32]), verbose=0)
        moved.append(
            np.concatenate(
                [(a - b).ravel() for a, b in zip(weights(model), before, strict=True)]
            )
        )
    free, clipped = moved
    expected = 0.01 * free / np.linalg.norm(free)
    np.testing.assert_allclose(clipped, expected, atol=1e-6)


def test_the_norm_of_the_gradient_is_computed_once():
    model = tiny(optimizer=keras.optimizers.SGD(1.0, global_clipnorm=0.01))
    model.adapt(FLOATS)

    def step(x):
        model._apply(*model._gradient_step(x)[:2])

    graph = tf.function(step).get_concrete_function(tf.constant(FLOATS[:4])).graph
    squares = [node for node in graph.get_operations() if node.type == "L2Loss"]
    assert len(squares) == len(model.trainable_variables)
    assert model.optimizer.global_clipnorm == 0.01


def test_xla_and_several_steps_per_execution_change_nothing():
    # 5 steps of which one execution takes 3 at most: the last one is short.
    results = []
    for arguments in (
        {"run_eagerly": True},
        {"steps_per_execution": 3},
        {"steps_per_execution": 3, "jit_compile": True},
    ):
        optimizer = keras.optimizers.SGD(1e-2, momentum=0.9, global_clipnorm=1.0)
        model = tiny(optimizer=optimizer, **arguments)
        images = (FLOATS[:80] * 17).astype(np.uint8)
        history = model.fit(
            batches(images), validation_data=batches(images), verbose=0
        ).history
        assert int(model.optimizer.iterations.numpy()) == 5
        results.append((weights(model), history))
        if arguments == {"steps_per_execution": 3}:
            # The graph is there, and knows of no number.
            model.steps_per_execution = 2
            model.fit(batches(images), steps_per_epoch=2, verbose=0)
            assert int(model.optimizer.iterations.numpy()) == 7
    for other in results[1:]:
        assert largest_difference(results[0][0], other[0]) < 1e-5
        for name, values in results[0][1].items():
            np.testing.assert_allclose(values, other[1][name], rtol=1e-4, err_msg=name)


def nan_in_batch(number, batch_size=16):
    images = FLOATS.copy()
    images[number * batch_size] = np.nan
    return images


def test_compiled_steps_arrange_their_convolutions(digit_images, monkeypatch):
    def updated(jit_compile):
        keras.utils.set_random_seed(0)
        model = PartitionedAEF(
            (8, 8, 1), 2, num_levels=17, core_flow="none", prior_flow="none"
        )
        model.compile(keras.optimizers.SGD(1e-4), jit_compile=jit_compile)
        model.adapt(digit_images[:32])
        if jit_compile:
            # Keras's own way is not there to fall back on.
            for layer in (keras.layers.Conv2D, keras.layers.Conv2DTranspose):
                monkeypatch.setattr(layer, "call", None)
        model.fit(digit_images[:32], batch_size=16, verbose=0)
        return weights(model)

    assert largest_difference(updated(False), updated(True)) < 1e-6


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_non_finite_update_is_skipped_and_counted(replicas, mirrored):
    strategy = mirrored if replicas == 2 else tf.distribute.get_strategy()
    with strategy.scope():
        guarded, clean = plain(), plain()
    bad = nan_in_batch(2)
    without = np.delete(FLOATS, np.s_[32:48], axis=0)
    for model, images in ((guarded, bad), (clean, without)):
        model.adapt(FLOATS)
        history = model.fit(batches(images), verbose=0).history
    assert largest_difference(weights(guarded), weights(clean)) < 1e-6
    assert int(guarded.optimizer.iterations.numpy()) == 5
    history = guarded.fit(batches(bad), verbose=0).history
    assert history["skipped_updates"] == [1.0]
    assert np.isfinite(history["loss"]).all()


def test_fit_stops_after_too_many_skips_in_a_row():
    model = plain(max_skipped_updates=8, steps_per_execution=2)
    model.adapt(FLOATS)
    # Six steps per epoch, one of them good: no row of eight.
    images = np.full_like(FLOATS, np.nan)
    images[:16] = FLOATS[:16]
    model.fit(batches(images), epochs=3, verbose=0)
    # All bad: the row goes on over the end of the epoch.
    images[:] = np.nan
    with pytest.raises(FloatingPointError, match="8 updates in a row had a non-finite"):
        model.fit(batches(images), epochs=3, verbose=0)
    assert np.isfinite(weights(model)[0]).all()


def broken_layer(model):
    """Makes one layer within the encoder overflow; returns its path."""
    layer = [
        part
        for part in model.encoder._flatten_layers()
        if isinstance(part, keras.layers.Dense)
    ][1]
    layer.kernel.assign(tf.fill(layer.kernel.shape, 3e38))
    return layer.path


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_run_that_is_stuck_names_the_first_layer(replicas, mirrored):
    strategy = mirrored if replicas == 2 else tf.distribute.get_strategy()
    with strategy.scope():
        model = plain(max_skipped_updates=3)
    model.adapt(FLOATS)
    path = broken_layer(model)
    call = keras.layers.Layer.__call__
    message = f"not finite is the output of layer '{path}'"
    with pytest.raises(FloatingPointError, match=message):
        model.fit(batches(FLOATS), verbose=0)
    assert keras.layers.Layer.__call__ is call


def test_a_run_that_is_stuck_tells_data_from_gradients():
    model = plain(max_skipped_updates=3)
    model.adapt(FLOATS)
    images = FLOATS.copy()
    images[5::16] = np.nan
    with pytest.raises(FloatingPointError, match="was not finite is in the data"):
        model.fit(batches(images), verbose=0)
    variable = keras.Variable(0.0, name="root")
    words = describe_non_finite(lambda: tf.sqrt(variable.value), [variable])
    assert words == "the gradient of 'root', after a finite loss"
    words = describe_non_finite(lambda: tf.math.log(variable.value), [variable])
    assert words == "the loss itself, after finite outputs of all layers"
    words = describe_non_finite(lambda: 2.0 * variable.value, [variable])
    assert words.startswith("not in the next batch")


def test_values_out_of_range_in_a_data_set_stop_the_training_at_once():
    model = plain()
    model.adapt(FLOATS)
    images = FLOATS.copy()
    images[20] = 1.5
    with pytest.raises(ValueError, match=r"must lie in .* got values from .* to 1\.5;"):
        model.fit(batches(images), verbose=0)
    # The batch before it counts, that one does not.
    assert int(model.optimizer.iterations.numpy()) == 1


def test_noise_is_a_function_of_seed_and_step():
    images = (FLOATS * 17).astype(np.uint8)
    runs = []
    for seed in (0, 0, 1):
        model = tiny(has_flows=False)
        model.seed = seed
        model.adapt(FLOATS)
        model.fit(batches(images), verbose=0)
        runs.append(weights(model))
    assert largest_difference(runs[0], runs[1]) == 0.0
    assert largest_difference(runs[0], runs[2]) > 0.0
    first, second = (model.evaluate(images, verbose=0) for _ in range(2))
    assert first == second


def test_any_seed_of_64_bits_serves():
    model = tiny(has_flows=False)
    model.seed = 2**63 - 1
    model.fit((FLOATS * 17).astype(np.uint8), verbose=0)
    with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
        PartitionedAEF((8, 8, 1), 2, seed=-1)


def test_noise_differs_from_step_to_step():
    model = tiny(optimizer=keras.optimizers.SGD(0.0), has_flows=False)
    images = (FLOATS[:16] * 17).astype(np.uint8)
    losses = model.fit(batches(images), epochs=3, verbose=0).history["loss"]
    assert len(set(losses)) == 3
    # Evaluation noise is fixed, and differs between batches.
    twice = np.concatenate([images, images])
    one = model.evaluate(images, verbose=0, return_dict=True)["loss"]
    two = model.evaluate(twice, batch_size=16, verbose=0, return_dict=True)["loss"]
    assert one != two


def test_evaluate_weights_examples_not_batches():
    model = tiny()
    model.adapt(FLOATS)
    result = model.evaluate(FLOATS[:20], batch_size=16, verbose=0, return_dict=True)
    expected = model.log_prob(FLOATS[:20]).numpy()
    np.testing.assert_allclose(result["loss"], -expected.mean(), rtol=1e-5)
    np.testing.assert_allclose(
        result["bits_per_dim"], model.bits_per_dim(expected).mean(), rtol=1e-5
    )


def test_logs_have_their_true_names():
    for cls, name in (
        (PartitionedAEF, "bits_per_dim"),
        (ExpandedAEF, "joint_bits_per_dim"),
    ):
        model = tiny(cls, has_flows=False)
        history = model.fit(FLOATS, validation_data=FLOATS, verbose=0).history
        assert set(history) == {
            "loss",
            name,
            "gradient_norm",
            "skipped_updates",
            "val_loss",
            f"val_{name}",
        }
        # As Keras has it: the loss is the first.
        values = model.evaluate(FLOATS, verbose=0)
        logs = model.evaluate(FLOATS, verbose=0, return_dict=True)
        assert model.metrics_names == ["loss", name]
        assert values == [logs["loss"], logs[name]]
        assert model.test_on_batch(FLOATS)[0] == pytest.approx(values[0], rel=1e-4)


def test_fit_adapts_once():
    model = plain(keras.optimizers.SGD(0.0), is_perturbed=False)
    start = weights(model)
    model.fit(batches(FLOATS), verbose=0)
    assert largest_difference(weights(model), start) > 0.1
    # Where they began, ActNorms would be set by any data.
    for weight, value in zip(model.trainable_weights, start, strict=True):
        weight.assign(value)
    model.fit(batches(FLOATS[:16] * 0.5), verbose=0)
    assert largest_difference(weights(model), start) == 0.0


def test_adapt_normalizes_every_act_norm(digit_images):
    model = PartitionedAEF((8, 8, 1), 3, num_levels=17)
    model.adapt(digit_images[:512])
    x = model.dequantize(digit_images[:512], stateless_seed(model.seed))
    y = model.preprocessing.bijector.inverse(x).numpy()
    np.testing.assert_allclose([y.mean(), y.std()], [0.0, 1.0], atol=1e-3)
    z0, _ = model.distribution.bijector.inverse(x)
    np.testing.assert_allclose(z0.numpy().mean(0), 0.0, atol=1e-3)
    np.testing.assert_allclose(z0.numpy().std(0), 1.0, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("cls", [PartitionedAEF, ExpandedAEF])
def test_overfits_64_images(cls, digit_images):
    # 16 latents for 64 images: the model can nearly learn them by heart.
    dense = {"encoder": "dense", "decoder": "dense"} if cls is ExpandedAEF else {}
    model = cls(
        (8, 8, 1),
        16,
        num_levels=17,
        core_flow=flows.MAF(16, num_layers=2, hidden_units=64),
        prior_flow=flows.MAF(16, num_layers=2, hidden_units=64),
        **dense,
    )
    model.compile(
        keras.optimizers.Adam(1e-3, global_clipnorm=200.0), steps_per_execution=25
    )
    images = digit_images[:64]
    data = batches(images, 64).repeat()
    history = model.fit(data, epochs=2, steps_per_epoch=300, verbose=0).history
    name = model.likelihood.bits_per_dim_name
    unseen = model.evaluate(digit_images[64:128], verbose=0, return_dict=True)[name]
    seen = model.evaluate(images, verbose=0, return_dict=True)[name]
    # Training digits in earnest ends at 2.1 bits per dimension after 15 times as many
    # different images.
    assert seen < 1.7
    if cls is PartitionedAEF:
        assert unseen > 1.7
    # A joint density is lower by the free scale of its features, for seen and unseen
    # images alike: the distance between the two is what it can tell.
    assert unseen > seen + 0.3
    assert history["skipped_updates"] == [0.0, 0.0]
    # Reconstructions are far better than the mean image, for which no latent is needed.
    originals = model.dequantize(images, None)
    error = np.abs(model.reconstruct(images) - originals).mean()
    assert error < 0.4 * np.abs(originals - originals.numpy().mean(0)).mean()


@pytest.mark.parametrize(
    ("fit", "message"),
    [
        (lambda m: m.fit(FLOATS, np.arange(96)), "with equal weights, got labels"),
        (lambda m: m.fit((FLOATS, np.arange(96))), "with equal weights, got labels"),
        (
            lambda m: m.fit(batches((FLOATS, np.arange(96)))),
            "data set of tuples of 2; drop labels",
        ),
        (
            lambda m: m.fit(batches({"image": FLOATS, "label": np.arange(96)})),
            "data set of dictionaries with 'image', 'label'; take",
        ),
        (lambda m: m.fit(np.arange(96)), r"\[batch, 4, 4, 1\], got \[96\]"),
        (lambda m: m.fit(batches(np.arange(96))), r"\[batch, 4, 4, 1\], got \[batch\]"),
        (lambda m: m.fit(FLOATS * 255), r"must lie in \[0, 1\], got values from"),
        (lambda m: m.fit(nan_in_batch(1)), "must be finite, got 16 NaN or infinite"),
        (lambda m: m.fit(batches(FLOATS * 255)), r"must lie in \[0, 1\], got values"),
        (
            lambda m: m.fit(FLOATS, validation_data=(FLOATS, FLOATS)),
            "validation_data: the model takes images alone",
        ),
        (
            lambda m: m.evaluate(FLOATS, np.arange(96)),
            "evaluate: the model takes images",
        ),
        (lambda m: m.fit(batches(FLOATS).take(0)), "there are no images, got 0 batch"),
        (
            lambda m: m.compile("adam", max_skipped_updates=0),
            "max_skipped_updates must be at least 1, got 0",
        ),
    ],
)
def test_bad_data_is_refused_in_one_line(fit, message, bystander):
    with pytest.raises(ValueError, match=message) as error:
        fit(bystander)
    assert "\n" not in str(error.value)


def test_a_generator_is_not_used_up():
    # Nor by what looks at its first images: these ActNorms are still to be set.
    seen = plain(is_perturbed=False)
    seen.fit(iter([FLOATS[:48], FLOATS[48:]]), steps_per_epoch=2, verbose=0)
    whole = plain(is_perturbed=False)
    whole.fit(FLOATS, batch_size=48, shuffle=False, verbose=0)
    assert int(seen.optimizer.iterations.numpy()) == 2
    assert largest_difference(weights(seen), weights(whole)) < 1e-6


def test_gradient_accumulation_over_replicas_is_refused(mirrored):
    with mirrored.scope():
        model = plain(keras.optimizers.SGD(0.1, gradient_accumulation_steps=2))
    model.adapt(FLOATS)
    with pytest.raises(ValueError, match="gradient_accumulation_steps works on one"):
        model.fit(batches(FLOATS), verbose=0)


def test_the_collector_of_cycles_rests_while_graphs_are_made():
    states = []

    @traced
    def function(x):
        states.append(gc.isenabled())
        if x.dtype == tf.string:
            raise ValueError("no number")
        return x

    function(tf.constant(1.0))
    assert gc.isenabled()
    with pytest.raises(ValueError, match="no number"):
        function(tf.constant("1"))
    assert gc.isenabled()
    gc.disable()
    try:
        function(tf.constant(1))
        assert not gc.isenabled()
    finally:
        gc.enable()
    # The loop around a step, with XLA or without.
    run = plain()._looped(
        lambda _: states.append(gc.isenabled()), lambda: {"loss": tf.constant(0.0)}
    )
    run(iter(batches(FLOATS)))
    assert gc.isenabled()
    assert states == [False] * 4


def test_the_first_step_runs_as_it_was_traced(digit_images, monkeypatch):
    # The tests have TensorFlow's switch off for their whole process.
    switch = tf.config.optimizer
    former = switch.get_experimental_options()
    switch.set_experimental_options({**former, "disable_meta_optimizer": False})

    def improves():
        options = context.context().function_call_options
        config = tf.compat.v1.ConfigProto.FromString(options.config_proto_serialized)
        return not config.graph_options.rewrite_options.disable_meta_optimizer

    seen = []
    run = polymorphic_function.Function.__call__

    def spied(function, *arguments, **keywords):
        seen.append(improves())
        return run(function, *arguments, **keywords)

    monkeypatch.setattr(polymorphic_function.Function, "__call__", spied)
    try:
        model = Autoencoder((8, 8, 1), 1, encoder="dense", decoder="dense")
        model.compile(keras.optimizers.Adam(1e-3), jit_compile=False)
        model.fit(digit_images[:8], batch_size=8, verbose=0)
        assert False in seen
        # For the rest of the process it is as it was.
        assert improves()
    finally:
        switch.set_experimental_options(former)


# What keeps a graph from being what it was.


def test_a_stateless_call_is_one_of_the_given_values():
    model = tiny()
    model.adapt(FLOATS)
    variables = [model.trainable_variables, model.non_trainable_variables]
    given = [[tf.convert_to_tensor(v) for v in part] for part in variables]
    given[0] = [value + 0.1 for value in given[0]]
    got, _ = model.stateless_call(*given, FLOATS[:4])
    here = model(FLOATS[:4])
    assert np.abs(got - here).max() > 1e-3
    for variable, value in zip(model.trainable_variables, given[0], strict=True):
        variable.assign(value)
    np.testing.assert_allclose(model(FLOATS[:4]), got, rtol=1e-6)


def test_layers_that_change_before_a_compilation_count():
    model = tiny(run_eagerly=True)
    model.adapt(FLOATS)
    before = model.encode(FLOATS[:4]).numpy()
    head = model.encoder.network.layers[-1]
    head.enable_lora(2)
    model.compile("adam", run_eagerly=True, jit_compile=False)
    head.lora_kernel_b.assign(tf.ones_like(head.lora_kernel_b))
    assert np.abs(model.encode(FLOATS[:4]) - before).max() > 1e-3


def test_a_file_keeps_how_a_model_was_compiled():
    model = tiny(jit_compile="auto", run_eagerly=True)
    config = model.get_compile_config()
    assert config["jit_compile"] == "auto"
    model.jit_compile = not model.jit_compile
    assert model.get_compile_config()["jit_compile"] == model.jit_compile
    model.compile()
    assert not model.run_eagerly
    model.compile_from_config(config)
    assert model.run_eagerly


def test_a_setting_that_a_callback_changes_counts_in_the_same_training():
    class Anneal(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.model.noise_std = 0.5 * epoch

    model = tiny(optimizer=keras.optimizers.SGD(0.0), run_eagerly=True)
    history = model.fit(
        FLOATS,
        epochs=2,
        batch_size=96,
        validation_split=0.5,
        callbacks=[Anneal()],
        verbose=0,
    ).history
    first, second = history["loss"]
    assert abs(second - first) > 0.1
    assert model.noise_std == 0.5


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "noise_std",
            -0.5,
            "noise_std must be a finite number of at least 0, got -0.5",
        ),
        ("noise_std", "0.1", "noise_std must be a finite number of at least 0, got '0"),
        ("seed", -3, "seed must be at least 0, got -3"),
        ("denoising_target", "Noisy", "must be 'noisy' or 'clean', got 'Noisy'"),
        ("denoising_target", "clean", "PartitionedAEF has no denoising_target 'clean'"),
    ],
)
def test_settings_are_checked_whenever_they_are_set(name, value, message, tiny_trained):
    before = getattr(tiny_trained, name)
    with pytest.raises(ValueError, match=message):
        setattr(tiny_trained, name, value)
    assert getattr(tiny_trained, name) == before


@pytest.fixture(scope="module")
def bystander():
    return plain(run_eagerly=True)


@pytest.fixture(scope="module")
def tiny_trained():
    model = tiny(run_eagerly=True)
    model.adapt(FLOATS)
    return model


def test_settings_of_layers_and_optimizers_count_from_the_next_fit_on():
    norm = keras.layers.BatchNormalization(center=False, scale=False)
    layers = [keras.Input((4, 4, 1)), norm, keras.layers.Flatten()]
    model = VAE((4, 4, 1), 2, encoder=keras.Sequential(layers), prior_flow="none")
    optimizer = keras.optimizers.AdamW(1e-3, global_clipnorm=1.0, weight_decay=0.1)
    model.compile(optimizer, jit_compile=False)
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 5, 0.5)

    def step():
        # Made as by `fit`, and traced when it is called.
        model.make_train_function()
        return model.train_function

    for obj, name, value in (
        (optimizer, "global_clipnorm", 1e-6),
        (optimizer, "weight_decay", 50.0),
        (optimizer, "beta_1", 0.5),
        (optimizer, "learning_rate", schedule),
        (norm, "trainable", False),
    ):
        former = step()
        assert step() is former
        setattr(obj, name, value)
        assert step() is not former, name
    optimizer = keras.optimizers.SGD(0.1)
    model.compile(optimizer)
    former = step()
    optimizer.learning_rate = 0.2
    assert step() is former


@pytest.mark.parametrize("name", ["train_step", "test_step", "compute_loss"])
def test_steps_that_would_never_be_called_are_refused(name):
    own = type("Own", (PartitionedAEF,), {name: lambda self, *arguments: None})
    with pytest.raises(
        ValueError, match=rf"Own\.{name} would never be called, since t"
    ):
        tiny(own)


def test_metrics_of_a_subclass_are_logged():
    class Counting(PartitionedAEF):
        def __init__(self, *arguments, **keywords):
            super().__init__(*arguments, **keywords)
            self.seen = keras.metrics.Sum(name="seen")

        def objective(self, x, seed):
            self.seen.update_state(tf.ones(tf.shape(x)[0]))
            return super().objective(x, seed)

    model = tiny(Counting, run_eagerly=True)
    history = model.fit(
        FLOATS, batch_size=32, epochs=2, validation_data=FLOATS[:10], verbose=0
    ).history
    assert history["seen"] == [96.0, 96.0]
    assert history["val_seen"] == [10.0, 10.0]


def test_act_norm_knows_nothing_of_what_is_held_out():
    found = []
    for scale in (1.0, 0.5):
        keras.utils.set_random_seed(0)
        # Not `tiny`, whose ActNorms are set, and stay as they are.
        model = PartitionedAEF((4, 4, 1), 2, core_flow="none", prior_flow="none")
        model.compile(keras.optimizers.SGD(0.0), run_eagerly=True, jit_compile=False)
        images = np.concatenate([FLOATS[:48], scale * FLOATS[48:]])
        model.fit(images, validation_split=0.5, batch_size=48, verbose=0)
        found.append(weights(model))
    assert largest_difference(*found) == 0.0


def test_a_share_of_a_data_set_is_not_held_out():
    model = tiny(run_eagerly=True)
    before = weights(model)
    with pytest.raises(ValueError, match="validation_split holds out a part of an arr"):
        model.fit(batches(FLOATS), validation_split=0.5, verbose=0)
    assert largest_difference(weights(model), before) == 0.0


@pytest.mark.parametrize("seed", [(5, 0), (-5, 7), (5, -7)])
def test_noise_and_seeds_are_the_same_under_xla(seed):
    def noise_from(seed, place):
        own = seeds_under(starting_at(seed, place), 2)
        # Within a loop nothing is known when it is compiled.
        return tf.map_fn(
            lambda each: uniform_noise([4, 3], each, tf.float64),
            own,
            fn_output_signature=tf.float64,
        )

    seed = tf.constant(seed)
    compiled = tf.function(noise_from, jit_compile=True, autograph=False)
    for place in range(3):
        place = tf.constant(place, tf.int64)
        np.testing.assert_array_equal(compiled(seed, place), noise_from(seed, place))
