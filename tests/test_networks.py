"""MADE, encoders, decoders and Gaussian heads."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from calculus import fresh, perturb

from aef_tfp import bijectors, networks
from aef_tfp.inference.laplace import forward_jacobian
from aef_tfp.networks import MADE, GaussianDecoder, GaussianEncoder
from aef_tfp.networks.activations import gelu

tfb = tfp.bijectors


def made_jacobian(made, x):
    """d parameters / d x of one example, `[d, p, d]`."""
    x = tf.constant(x[None])
    with tf.GradientTape() as tape:
        tape.watch(x)
        parameters = made(x)
    return tape.jacobian(parameters, x).numpy()[0, :, :, 0]


@pytest.mark.parametrize("event_size", [1, 2, 3, 6, 12])
def test_made_forbidden_connections_are_exactly_zero(event_size, rng):
    made = MADE(event_size, hidden_units=8, dtype="float64")
    perturb(made, rng, scale=1.0)
    reached = np.zeros((event_size, event_size))
    for _ in range(20):
        jacobian = made_jacobian(made, rng.normal(size=event_size))
        for i in range(event_size):
            assert (jacobian[i, :, i:] == 0.0).all()
        reached += np.abs(jacobian).sum(1)
    if event_size <= 8:  # with fewer units than degrees some connections do not exist
        assert (reached[np.tril_indices(event_size, -1)] > 0.0).all()


def test_made_every_weight_gets_a_gradient(rng):
    made = MADE(5, hidden_units=16, dtype="float64")
    perturb(made, rng)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(made(tf.constant(rng.normal(size=(64, 5)))) ** 2)
    for weight, gradient in zip(
        made.trainable_weights,
        tape.gradient(loss, made.trainable_weights),
        strict=True,
    ):
        assert np.abs(gradient).max() > 0.0, weight.path


def test_made_degrees_are_those_of_the_paper_sorted():
    made = MADE(5, hidden_units=11)
    assert (np.diff(made.degrees) >= 0).all()
    np.testing.assert_array_equal(
        np.bincount(made.degrees), np.bincount(np.arange(11) % 4 + 1)
    )


@pytest.mark.parametrize("d", [2, 32])
def test_made_parameter_count(d):
    made = MADE(d)
    made.build()
    blocks = 4 * (256 * 256 + 256)
    assert made.count_params() == d * 256 + 256 + blocks + 256 * 2 * d + 2 * d


@pytest.mark.parametrize("event_size", [1, 2, 5, 9, 40])
@pytest.mark.parametrize("num_blocks", [0, 1, 2])
def test_incremental_sampling_equals_the_plain_loop(event_size, num_blocks, rng):
    made = MADE(event_size, hidden_units=16, num_blocks=num_blocks, dtype="float64")
    made.build()
    perturb(made, rng, scale=0.1)
    plain = tfb.MaskedAutoregressiveFlow(
        bijector_fn=lambda y: bijectors.affine_inverse(made(y))
    )
    x = tf.constant(rng.normal(size=(2, 3, event_size)))
    # The compiler takes longest, and sizes in between bring it nothing new.
    is_compiled = (event_size, num_blocks) in {(1, 2), (5, 0), (5, 2), (40, 2)}
    for compiled in (False, True) if is_compiled else (False,):
        fast = bijectors.MaskedAutoregressive(made).forward
        fast = tf.function(fast, jit_compile=True) if compiled else fast
        np.testing.assert_allclose(fast(fresh(x)), plain.forward(fresh(x)), rtol=1e-9)


@pytest.mark.parametrize("count", [1, 3, 64, 150])
def test_recursions_compiled_where_they_stand_equal_the_plain_loop(count, rng):
    # 64 go through a compiled recursion at once; the second layer shares the code of
    # the first, but not its weights.
    x = tf.constant(rng.normal(size=(count, 5)))
    for _ in range(2):
        made = MADE(5, hidden_units=16, dtype="float64")
        made.build()
        perturb(made, rng, scale=0.1)
        bijector = bijectors.MaskedAutoregressive(made)

        @tf.function(input_signature=[tf.TensorSpec([None, 5], tf.float64)])
        def compiled(x, bijector=bijector):
            with networks.recursion.compiling_recursions():
                return bijector.forward(tf.identity(x))

        results = []
        for forward in (compiled, bijector.forward):
            with tf.GradientTape() as tape:
                inputs = fresh(x)
                tape.watch(inputs)
                y = forward(inputs)
                loss = tf.reduce_sum(y**2)
            gradients = tape.gradient(loss, [inputs, *made.trainable_weights])
            results.append([y, *gradients])
        for got, expected in zip(*results, strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-8, atol=1e-10)
        library = compiled.get_concrete_function().graph.as_graph_def().library
        assert any(f.attr["_XlaMustCompile"].b for f in library.function)


def test_incremental_sampling_has_gradients(rng):
    made = perturb(MADE(4, hidden_units=8, dtype="float64"), rng)
    made.build()
    perturb(made, rng)
    fast = bijectors.MaskedAutoregressive(made)
    plain = tfb.MaskedAutoregressiveFlow(
        bijector_fn=lambda y: bijectors.affine_inverse(made(y)), unroll_loop=True
    )
    x = tf.constant(rng.normal(size=(3, 4)))
    gradients = []
    for bijector in (fast, plain):
        with tf.GradientTape() as tape:
            inputs = fresh(x)
            tape.watch(inputs)
            loss = tf.reduce_sum(bijector.forward(inputs) ** 2)
        gradients.append(tape.gradient(loss, [inputs, *made.trainable_weights]))
    for got, expected in zip(*gradients, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"event_size": 0}, "event_size must be at least 1, got 0"),
        (
            {"event_size": 3, "hidden_units": 0},
            "hidden_units must be at least 1, got 0",
        ),
        ({"event_size": 3, "num_blocks": -1}, "num_blocks must be at least 0, got -1"),
    ],
)
def test_made_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        MADE(**arguments)


def test_small_networks_have_the_papers_sizes():
    encoder = networks.conv_encoder((28, 28, 1))
    assert encoder.output_shape == (None, 7 * 7 * 128)
    assert encoder.count_params() == (9 * 64 + 64) + (9 * 64 * 128 + 128)
    decoder = networks.conv_decoder(2, (28, 28, 1))
    assert decoder.output_shape == (None, 28, 28, 1)
    linear = 2 * 6272 + 6272
    assert decoder.count_params() == linear + (16 * 128 * 64 + 64) + (16 * 64 + 1)


def derivatives(call, x, weights):
    """Values, and first and second derivatives of sums over them."""
    with tf.GradientTape(persistent=True) as outer:
        outer.watch(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = call(x)
            total = tf.reduce_sum(tf.sin(y))
        first = tape.gradient(total, [x, *weights])
        loss = sum(tf.reduce_sum(tf.cos(part)) for part in first)
    return y, first, outer.gradient(loss, [x, *weights])


def assert_same(got, expected):
    tf.nest.map_structure(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9),
        got,
        expected,
    )


def by_keras(layer, x):
    return type(layer).__mro__[1].call(layer, x)


SIZES = [(2, 3), (4, 4), (5, 2)]


@pytest.mark.parametrize("channels", [2, 16])
@pytest.mark.parametrize(
    ("kind", "size", "strides", "jit_compile"),
    [
        *itertools.product(["Conv2D", "Conv2DTranspose"], SIZES, [2], [False]),
        ("Conv2D", 1, 1, False),
        # The compiler is given the same operations in other numbers.
        *itertools.product(["Conv2D", "Conv2DTranspose"], [(5, 2)], [2], [True]),
        ("Conv2D", 1, 1, True),
    ],
)
def test_convolutions_arranged_for_xla_are_those_of_keras(
    kind, size, strides, channels, jit_compile, rng, monkeypatch
):
    options = {"strides": strides, "padding": "same", "activation": "tanh"}
    large, small = (3, 6, 8, channels), (3, 3, 4, 7)
    filters = 7 if kind == "Conv2D" else channels
    layer = getattr(networks, kind)(filters, size, dtype="float64", **options)
    x = tf.constant(rng.normal(size=large if kind == "Conv2D" else small))
    layer.build(x.shape)
    perturb(layer, rng)
    weights = layer.trainable_weights
    expected = derivatives(lambda x: by_keras(layer, x), x, weights)
    # Keras's own way is not there to fall back on.
    monkeypatch.setattr(type(layer).__mro__[1], "call", None)

    @tf.function(jit_compile=jit_compile)
    def arranged():
        with networks.convolutions.arranging_for_xla():
            return derivatives(layer, x, weights)

    assert_same(arranged(), expected)


def test_gelu_is_its_definition(rng):
    x = tf.constant([*rng.normal(scale=3, size=20), 0, -40, 40])
    # Keras's own has a constant of float32 in float64, too.
    np.testing.assert_allclose(
        gelu(x), keras.activations.gelu(x, approximate=False), atol=1e-7
    )
    normal = tfp.distributions.Normal(tf.constant(0.0, x.dtype), 1.0)
    expected = derivatives(lambda x: x * normal.cdf(x), x, [])
    assert_same(derivatives(gelu, x, []), expected)


def test_large_transposed_kernels_take_the_faster_way_everywhere(rng, monkeypatch):
    layer = networks.Conv2DTranspose(16, 4, strides=2, padding="same", dtype="float64")
    x = tf.constant(rng.normal(size=(2, 3, 4, 5)))
    layer.build(x.shape)
    expected = by_keras(layer, x)
    monkeypatch.setattr(keras.layers.Conv2DTranspose, "call", None)
    sides_unknown = tf.function(layer, [tf.TensorSpec([None, None, None, 5], x.dtype)])
    np.testing.assert_allclose(sides_unknown(x), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "other"),
    [
        ("Conv2DTranspose", {"kernel_size": 1}),
        ("Conv2DTranspose", {"strides": 3}),
        ("Conv2DTranspose", {"padding": "valid"}),
        ("Conv2DTranspose", {"output_padding": 1}),
        ("Conv2D", {"kernel_size": 1}),
        ("Conv2D", {"strides": 1}),
        ("Conv2D", {"padding": "valid"}),
        ("Conv2D", {"groups": 2}),
        ("Conv2D", {}),
    ],
)
def test_other_convolutions_are_left_to_keras(kind, other, rng):
    options = {"filters": 16, "kernel_size": 4, "strides": 2, "padding": "same"}
    layer = getattr(networks, kind)(**{**options, **other}, dtype="float64")
    # An odd side cannot be halved.
    x = tf.constant(rng.normal(size=(2, 4 if other else 5, 4, 2)))
    with networks.convolutions.arranging_for_xla():
        y = layer(x)
    np.testing.assert_allclose(y, by_keras(layer, x), atol=1e-12)
    assert layer.compute_output_shape(x.shape) == y.shape


def affine_layers(dtype="float64"):
    options = {"strides": 2, "padding": "same", "dtype": dtype}
    return networks.AffineSequential(
        [
            keras.Input([3], dtype=networks.batching.density_dtype(dtype)),
            keras.layers.Dense(2 * 2 * 5, dtype=dtype),
            keras.layers.Reshape([2, 2, 5], dtype=dtype),
            keras.layers.Conv2DTranspose(4, 3, **options),
        ]
    )


def in_turn(model, x):
    for layer in model.layers:
        x = layer(x)
    return x


# Numbers of points, and how many of them the layers see.
POINTS = [(7, 4), (6, 6), (1, 1)]


def rows_seen(model, monkeypatch):
    """Notes how many rows reach the first layer of a model."""
    seen = []
    original = model.layers[0].call
    monkeypatch.setattr(
        model.layers[0], "call", lambda x: seen.append(tf.shape(x)[0]) or original(x)
    )
    return seen


@pytest.mark.parametrize(
    ("count", "rows", "known", "jit_compile"),
    [
        *((*case, known, False) for case in POINTS for known in (True, False)),
        *((*case, True, True) for case in POINTS),
        (7, 4, False, True),
    ],
)
def test_affine_layers_see_few_points(
    count, rows, known, jit_compile, rng, monkeypatch
):
    model = affine_layers()
    perturb(model, rng)
    x = tf.constant(rng.normal(size=(count, 3)))

    weights = model.trainable_weights
    expected = derivatives(lambda x: in_turn(model, x), x, weights)
    seen = rows_seen(model, monkeypatch)
    signature = [tf.TensorSpec([count if known else None, 3], x.dtype)]

    @tf.function(input_signature=signature, jit_compile=jit_compile)
    def compiled(x):
        return derivatives(model, x, weights), seen[0]

    got, rows_used = compiled(x)
    assert rows_used == rows
    assert_same(got, expected)


@pytest.mark.parametrize("count", [3, 7])
def test_affine_layers_have_jacobians_in_batches_of_unknown_size(count, rng):
    model = affine_layers()
    perturb(model, rng)
    x = tf.constant(rng.normal(size=(count, 3)))

    @tf.function(input_signature=[tf.TensorSpec([None, 3], x.dtype)])
    def jacobian(x):
        return forward_jacobian(lambda z: tf.reshape(model(z), [-1, 64]), x)

    slopes = in_turn(model, tf.eye(3, dtype=x.dtype)) - in_turn(model, tf.zeros([1, 3]))
    expected = tf.transpose(tf.reshape(slopes, [3, 64]))
    for got in jacobian(x):
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)


def test_affine_layers_in_half_precision_go_the_usual_way(rng, monkeypatch):
    model = affine_layers("mixed_bfloat16")
    seen = rows_seen(model, monkeypatch)
    model(rng.normal(size=(20, 3)))
    assert [int(rows) for rows in seen] == [20]


def test_affine_layers_are_saved_and_cloned(tmp_path, rng):
    model = affine_layers()
    perturb(model, rng)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded) is networks.AffineSequential
    x = tf.constant(rng.normal(size=(7, 3)))
    np.testing.assert_array_equal(loaded(x), model(x))
    outer = keras.Sequential([keras.Input([3]), model, keras.layers.ReLU()])
    copy = keras.models.clone_model(outer).layers[0]
    assert type(copy) is networks.AffineSequential
    assert copy.count_params() == model.count_params()


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (
            keras.layers.Dense(2, "relu", name="hidden"),
            "without activation, but 'hidden' has 'relu'",
        ),
        (
            keras.layers.BatchNormalization(name="norm"),
            "affine layers of keras.layers, got 'norm' of type BatchNormalization",
        ),
        (keras.Input([4, 4, 1]), r"its input has the shape \(4, 4, 1\)"),
        (
            keras.layers.Dense(2, activity_regularizer="l2", name="lazy"),
            "without activity_regularizer, but 'lazy' has one",
        ),
    ],
)
def test_affine_layers_are_affine(layer, message):
    with pytest.raises(ValueError, match=message):
        networks.AffineSequential([layer])


def test_the_small_decoder_decodes_many_as_it_decodes_one(rng, monkeypatch):
    decoder = networks.conv_decoder(2, (8, 8, 1), dtype="float64")
    perturb(decoder, rng)
    x = tf.constant(rng.normal(size=(5, 2)))
    expected = tf.concat([decoder(x[i : i + 1]) for i in range(5)], axis=0)
    seen = rows_seen(decoder.layers[0], monkeypatch)
    np.testing.assert_allclose(decoder(x), expected, rtol=1e-10, atol=1e-12)
    assert [int(rows) for rows in seen] == [3]


@pytest.mark.parametrize("event_shape", [(28, 30, 1), (30, 28, 1)])
def test_small_networks_refuse_sides_not_divisible_by_4(event_shape):
    sides = f"{event_shape[0]} x {event_shape[1]}"
    for build in (
        lambda: networks.conv_encoder(event_shape),
        lambda: networks.conv_decoder(2, event_shape),
    ):
        with pytest.raises(ValueError, match=f"divisible by 4, got {sides}"):
            build()


def test_unknown_network_names_are_refused():
    with pytest.raises(ValueError, match=r"encoder must be 'conv', 'dense'.*'resnet'"):
        networks.get_encoder("resnet", (8, 8, 1), 2)
    with pytest.raises(ValueError, match=r"decoder must be 'conv', 'dense'.*'resnet'"):
        networks.get_decoder("resnet", 2, (8, 8, 1))


def test_encoder_heads_on_features(rng):
    encoder = GaussianEncoder(networks.dense_encoder((5,), (7,)), (5,), 3)
    loc, scale = encoder(tf.constant(rng.normal(size=(2, 4, 5)), tf.float32))
    assert loc.shape == scale.shape == (2, 4, 3)
    assert (scale.numpy() > 0.0).all()
    assert encoder.count_params() == (5 * 7 + 7) + 2 * (7 * 3 + 3)


def test_encoder_with_two_outputs_is_used_as_it_is(rng):
    inputs = keras.Input((5,))
    scale = keras.layers.Dense(3, activation="softplus")(inputs)
    network = keras.Model(inputs, [keras.layers.Dense(3)(inputs), scale])
    encoder = GaussianEncoder(network, (5,), 3)
    x = tf.constant(rng.normal(size=(4, 5)), tf.float32)
    for got, expected in zip(encoder(x), network(x), strict=True):
        np.testing.assert_array_equal(got, expected)
    assert encoder.count_params() == network.count_params()


def test_encoder_refuses_wrong_outputs():
    inputs = keras.Input((5,))
    network = keras.Model(inputs, [keras.layers.Dense(4)(inputs) for _ in range(2)])
    message = r"encoder must return features.*\[batch, 3\] each, got \[batch, 4\]"
    with pytest.raises(ValueError, match=message):
        GaussianEncoder(network, (5,), 3)


def test_decoder_scales(rng):
    z = tf.constant(rng.normal(size=(2, 3, 2)), tf.float32)
    shape = (8, 8, 1)
    networks_by_scale = {
        scale: networks.conv_decoder(2, shape, num_outputs=outputs)
        for scale, outputs in (("fixed", 1), ("independent", 1), ("dependent", 2))
    }
    scales = {}
    for name, network in networks_by_scale.items():
        decoder = GaussianDecoder(network, 2, shape, name)
        loc, scales[name] = decoder(z)
        assert loc.shape == scales[name].shape == (2, 3, *shape)
        extra = 64 if name == "independent" else 0
        assert decoder.count_params() == network.count_params() + extra
    np.testing.assert_array_equal(scales["fixed"], 1.0)
    np.testing.assert_allclose(scales["independent"], np.log(2.0) + 1e-5, rtol=1e-6)
    assert np.ptp(scales["dependent"].numpy()) > 0.0


def test_dependent_scale_is_read_from_the_second_half_of_the_channels():
    network = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(6, bias_initializer="ones")]
    )
    network.layers[0].set_weights([np.zeros((2, 6)), np.arange(6.0)])
    loc, scale = GaussianDecoder(network, 2, (3,), "dependent")(tf.zeros((1, 2)))
    np.testing.assert_allclose(loc[0], [0.0, 1.0, 2.0])
    np.testing.assert_allclose(scale[0], np.log1p(np.exp([3, 4, 5])) + 1e-5, rtol=1e-6)


@pytest.mark.parametrize(
    ("units", "scale", "message"),
    [
        (4, "independent", r"one output \[batch, 3\].*got \[batch, 4\]"),
        (3, "dependent", r"location and raw scale.*\[batch, 6\].*got \[batch, 3\]"),
        (3, "own", "decoder_scale must be one of .*got 'own'"),
    ],
)
def test_decoder_refuses(units, scale, message):
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(units)])
    with pytest.raises(ValueError, match=message):
        GaussianDecoder(network, 2, (3,), scale)


def test_densities_stay_float32_under_a_mixed_policy():
    policy = keras.dtype_policies.DTypePolicy("mixed_bfloat16")
    network = networks.dense_encoder((5,), (7,), dtype=policy)
    keras.config.set_dtype_policy(policy)
    try:
        encoder = GaussianEncoder(network, (5,), 3)
        made = MADE(3)
    finally:
        keras.config.set_dtype_policy("float32")
    assert network(tf.zeros((1, 5))).dtype == tf.bfloat16
    assert {part.dtype for part in encoder(tf.zeros((1, 5)))} == {tf.float32}
    # And locations have the digits of float32, not only its name.
    decoder = networks.dense_decoder(2, (5,), dtype=policy)
    location = decoder(tf.random.stateless_uniform([9, 2], [1, 2]))
    assert location.dtype == tf.float32
    assert np.any(location != tf.cast(tf.cast(location, tf.bfloat16), tf.float32))
    assert made(tf.zeros((1, 3))).dtype == tf.float32


@pytest.mark.parametrize("batch_shape", [(), (4,), (2, 3)])
def test_any_number_of_batch_axes(batch_shape, rng):
    made = MADE(3, hidden_units=8)
    x = rng.normal(size=(*batch_shape, 3)).astype(np.float32)
    flat = made(tf.constant(x.reshape(-1, 3)))
    np.testing.assert_allclose(
        made(tf.constant(x)), tf.reshape(flat, (*batch_shape, 3, 2)), rtol=1e-6
    )


def equalized(rng):
    # More inputs than the reference: the gain is not 1.
    layer = networks.EqualizedDense(3)
    network = keras.Sequential([keras.Input([512]), layer])
    return network, layer, rng.normal(size=(4, 512)).astype("float32")


def loaded(network, path):
    network.save(path)
    return keras.saving.load_model(path)


def test_equalized_layers_with_lora_are_saved(rng, tmp_path):
    network, layer, x = equalized(rng)
    before = network(x).numpy()
    layer.enable_lora(2)
    np.testing.assert_array_equal(network(x), before)
    change = rng.normal(size=(2, 3))
    layer.lora_kernel_b.assign(change)
    expected = before + layer.gain * x @ layer.lora_kernel_a.numpy() @ change
    np.testing.assert_allclose(network(x), expected, rtol=1e-4, atol=1e-4)
    copy = loaded(network, tmp_path / "network.keras")
    assert copy.layers[0].lora_enabled
    np.testing.assert_array_equal(copy(x), network(x))


@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
def test_equalized_layers_of_few_bits_keep_their_gain(mode, rng, tmp_path):
    network, layer, x = equalized(rng)
    before = network(x).numpy()
    layer.quantize(mode, type_check=False)
    rounding = np.abs(network(x) - before).max()
    assert rounding < 0.2 * np.abs(before).max()
    copy = loaded(network, tmp_path / "network.keras")
    np.testing.assert_array_equal(copy(x), network(x))
