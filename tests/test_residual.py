"""The residual networks: the paper's sizes, their start, any side that halves."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from aef_tfp import networks
from aef_tfp.data import dataset_info
from aef_tfp.models import VAE, Autoencoder, ExpandedAEF, PartitionedAEF
from aef_tfp.models.chain import Chain
from aef_tfp.networks import BottleneckBlock, Stage, batching, get_decoder
from aef_tfp.networks.batching import events_per_pass
from aef_tfp.networks.residual import residual_stages
from aef_tfp.runs.config import RunConfig
from aef_tfp.runs.training import build_model

RESIDUAL = {"encoder": "residual", "decoder": "residual"}

# (side, latents): millions of parameters of VAE and AEF (linear), Tables 4 and 5.
SIZES = {
    (32, 64): (2.80, 2.99),
    (32, 128): (4.07, 4.46),
    (32, 256): (8.32, 9.11),
    (64, 128): (4.34, 5.91),
    (64, 256): (9.40, 12.5),
    (64, 512): (28.0, 34.3),
}


def trainable(model):
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


def agrees(count, millions):
    """Three digits, some of them rounded in the paper and some cut off."""
    digit = 0.01 if millions < 10 else 0.1
    return millions - digit / 2 <= count / 1e6 < millions + digit


@pytest.mark.parametrize(("side", "latent_dim"), SIZES)
def test_the_papers_sizes(side, latent_dim):
    shape = (side, side, 3)
    for_vae, for_aef = SIZES[side, latent_dim]
    count = trainable(VAE(shape, latent_dim, **RESIDUAL))
    assert agrees(count, for_vae)
    assert agrees(count + side * side * 3 * latent_dim + latent_dim, for_aef)
    if (side, latent_dim) == (32, 64):
        aef = ExpandedAEF(shape, latent_dim, **RESIDUAL)
        assert trainable(aef) == count + 3072 * 64 + 64


@pytest.mark.parametrize(
    ("side", "sides"),
    [
        (64, [64, 32, 16, 8, 4, 1]),
        (32, [32, 16, 8, 4, 1]),
        (28, [28, 14, 7, 1]),
        (48, [48, 24, 12, 6, 3, 1]),
        (8, [8, 4, 1]),
        (5, [5, 1]),
        (2, [2, 1]),
    ],
)
def test_stages_lead_to_one(side, sides):
    stages = residual_stages(side)
    assert [stage.side for stage in stages] == sides
    for stage, following in zip(stages, sides[1:], strict=False):
        assert stage.side == following * stage.factor
    assert {stage.num_blocks for stage in stages} == {4}


@pytest.mark.parametrize("side", [1, 9, 11, 26, 100])
def test_a_side_that_does_not_halve_is_refused(side):
    with pytest.raises(ValueError, match=f"got a side of {side}; resize or crop"):
        residual_stages(side)


@pytest.mark.parametrize(("side", "smaller"), [(44, 40), (52, 48), (9, 8), (100, 96)])
@pytest.mark.parametrize("width", [None, 4])
def test_a_run_names_the_next_smaller_side(side, smaller, width):
    config = RunConfig(dataset="folder", networks="residual", width=width, model="vae")
    info = dataclasses.replace(dataset_info("folder"), image_shape=(side, side, 1))
    message = rf"got a side of {side}; .*; the next smaller side is {smaller}\.$"
    with pytest.raises(ValueError, match=message):
        build_model(config, info)


SMALL = [Stage(4, 1, 4), Stage(1, 2, 1)]


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([Stage(8, 1, 8), Stage(1, 1, 1)], "must lead from side 4 to 1"),
        ([Stage(4, 1, 2), Stage(1, 1, 1)], "the side is 2"),
        ([Stage(4, 0, 4), Stage(1, 1, 1)], "at least one block"),
        ([Stage(4, 1, 3), Stage(1, 1, 1)], "divided by its factor"),
        ([Stage(4, 1, 4)], "last stage must have side 1 and factor 1"),
        ([], "last stage"),
    ],
)
def test_stages_that_do_not_fit_are_refused(stages, message):
    with pytest.raises(ValueError, match=message):
        networks.residual_encoder((4, 4, 1), 2, stages=stages)
    with pytest.raises(ValueError, match=message):
        networks.residual_decoder(2, (4, 4, 1), stages=stages)


@pytest.mark.parametrize("shape", [(4, 8, 1), (8,)])
def test_images_that_are_not_square_are_refused(shape):
    with pytest.raises(ValueError, match="need square images"):
        VAE(shape, 2, **RESIDUAL)


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_a_block_is_its_formula(kernel_size, rng):
    block = BottleneckBlock(6, 2, kernel_size, dtype="float64")
    x = rng.normal(size=(2, 5, 5, 6))
    block(x)
    for weight in block.weights:
        weight.assign(rng.normal(size=weight.shape))
    y = tf.constant(x)
    for kernel, bias in zip(block.weights[::2], block.weights[1::2], strict=True):
        # Exact GELU: the approximation differs in the third digit.
        y = 0.5 * y * (1.0 + tf.math.erf(y / np.sqrt(2.0)))
        y = tf.nn.conv2d(y, tf.convert_to_tensor(kernel), 1, "SAME") + bias
    np.testing.assert_allclose(block(x), x + y, rtol=1e-5)
    assert [weight.shape[:2] for weight in block.weights[::2]] == [
        (1, 1),
        (kernel_size, kernel_size),
        (kernel_size, kernel_size),
        (1, 1),
    ]


def test_blocks_start_as_the_papers():
    keras.utils.set_random_seed(1)
    encoder = networks.residual_encoder((8, 8, 3), 256)
    blocks = [part for part in encoder.layers if isinstance(part, BottleneckBlock)]
    assert len(blocks) == 4 + 1 + 4 + 1 + 4
    for block in blocks:
        reduce, _, second, expand = (part.kernel for part in block.convolutions)
        for kernel, scale in ((reduce, 1.0), (second, 1.0), (expand, 14**-0.5)):
            limit = scale / np.sqrt(np.prod(kernel.shape[:-1]))
            largest = np.abs(kernel.numpy()).max()
            assert 0.98 * limit < largest <= 1.001 * limit
        for layer in block.convolutions:
            assert not layer.bias.numpy().any()
    assert [block.convolutions[1].kernel_size[0] for block in blocks] == [
        *[3] * 10,
        *[1] * 4,
    ]
    # Only the last one is no residual block: it changes the number of channels.
    assert [block.residual for block in blocks] == [True] * 13 + [False]
    assert VAE((8, 8, 1), 4, **RESIDUAL).decoder.raw_scale.numpy().max() == 1.0


def test_the_decoder_uses_its_own_stages():
    decoder = networks.residual_decoder(2, (4, 4, 3), stages=SMALL)
    blocks = [part for part in decoder.layers if isinstance(part, BottleneckBlock)]
    # Two at side 1, one of the upsampling and one at side 4.
    assert [block.convolutions[1].kernel_size[0] for block in blocks] == [1, 1, 3, 3]
    assert decoder.output_shape == (None, 4, 4, 3)


def test_the_width_is_an_argument():
    encoder = networks.residual_encoder((8, 8, 1), 3, width=8)
    assert [tuple(output.shape) for output in encoder.outputs] == [(None, 3)] * 2
    decoder = networks.residual_decoder(3, (8, 8, 1), width=8)
    assert decoder.layers[1].units == 8
    model = ExpandedAEF((8, 8, 1), 3, encoder=encoder, decoder=decoder)
    assert model.sample(2).shape == (2, 8, 8, 1)


@pytest.mark.parametrize("num_outputs", [1, 2])
def test_an_odd_side_is_reached_and_left(num_outputs):
    # 28, 14, 7, and from 7 to 1 in one step: the only pooling that is not by 2 or 4.
    encoder = networks.residual_encoder((28, 28, 1), 3, 4, num_outputs=num_outputs)
    sides = [
        layer.output.shape[1]
        for layer in encoder.layers
        if isinstance(layer, keras.layers.AveragePooling2D)
    ]
    assert sides == [14, 7, 1]
    outputs = encoder(np.zeros([2, 28, 28, 1], np.float32))
    outputs = outputs if num_outputs == 2 else [outputs]
    assert [tuple(output.shape) for output in outputs] == [(2, 3)] * num_outputs
    decoder = networks.residual_decoder(3, (28, 28, 1), num_outputs, width=4)
    sides = [
        layer.output.shape[1]
        for layer in decoder.layers
        if isinstance(layer, keras.layers.UpSampling2D)
    ]
    assert sides == [7, 14, 28]
    output = decoder(np.zeros([2, 3], np.float32))
    assert output.shape == (2, 28, 28, num_outputs)


@pytest.mark.slow
def test_compiled_mixed_precision_trains_and_is_saved(digit_images, tmp_path):
    dtype = "mixed_bfloat16"
    # One block per stage, since XLA takes its time for each.
    shared = {"width": 4, "stages": residual_stages(8, num_blocks=1), "dtype": dtype}
    model = VAE(
        (8, 8, 1),
        3,
        num_levels=17,
        encoder=networks.residual_encoder((8, 8, 1), 3, **shared),
        decoder=networks.residual_decoder(3, (8, 8, 1), **shared),
        prior_flow="none",
        posterior_flow="none",
        dtype=dtype,
    )
    model.compile(keras.optimizers.Adam(1e-3), jit_compile=True)
    model.adapt(digit_images)
    before = [weight.numpy() for weight in model.trainable_weights]
    history = model.fit(digit_images[:64], batch_size=32, epochs=2, verbose=0)
    assert np.all(np.isfinite(history.history["loss"]))
    for weight, old in zip(model.trainable_weights, before, strict=True):
        assert weight.dtype == "float32"
        assert (weight.numpy() != old).any(), weight.path
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for network in (loaded.encoder.network, loaded.decoder.network):
        blocks = [part for part in network.layers if isinstance(part, BottleneckBlock)]
        assert {block.compute_dtype for block in blocks} == {"bfloat16"}
    x = digit_images[:5]
    got, wanted = (one.elbo(x, seed=0) for one in (loaded, model))
    assert wanted.dtype == tf.float32
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("cls", [PartitionedAEF, Autoencoder])
def test_a_residual_model_trains_and_is_saved(cls, digit_images, tmp_path):
    stages = [Stage(8, 1, 8), Stage(1, 1, 1)]
    outputs = 1 if cls is Autoencoder else 2
    encoder = networks.residual_encoder(
        (8, 8, 1), 4, 8, stages=stages, num_outputs=outputs
    )
    decoder = networks.residual_decoder(4, (8, 8, 1), width=8, stages=stages)
    none = {"prior_flow": "none", "core_flow": "none"} if outputs == 2 else {}
    model = cls((8, 8, 1), 4, num_levels=17, encoder=encoder, decoder=decoder, **none)
    model.compile(keras.optimizers.Adam(1e-3), jit_compile=False)
    before = [weight.numpy() for weight in model.trainable_weights]
    model.adapt(digit_images)
    model.fit(digit_images[:64], batch_size=64, epochs=2, verbose=0)
    for weight, old in zip(model.trainable_weights, before, strict=True):
        assert (weight.numpy() != old).any(), weight.path
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    x = digit_images[:5]
    np.testing.assert_array_equal(loaded.encode(x), model.encode(x))
    np.testing.assert_array_equal(loaded.reconstruct(x), model.reconstruct(x))


def test_an_autoencoder_of_that_name_has_no_scale():
    model = Autoencoder((8, 8, 1), 4, **RESIDUAL)
    assert model.encoder.network.output_shape == (None, 4)


@pytest.mark.parametrize(
    ("decoder", "entries"),
    [("conv", 4 * 4 * 64), ("residual", 8 * 8 * 16), ("dense", 256)],
)
def test_the_largest_layer_bounds_what_goes_through_at_once(decoder, entries):
    network = get_decoder(decoder, 16, (8, 8, 1), num_outputs=1)
    assert events_per_pass(network, (8, 8, 1)) == 2**23 // entries


def test_events_in_several_passes_give_the_same(digit_images, monkeypatch):
    x = digit_images[:40]
    stages = [Stage(8, 1, 8), Stage(1, 1, 1)]
    encode, sizes = Chain.encoded, []

    def recorded(chain, shell):
        sizes.append(shell.shape[0])
        return encode(chain, shell)

    def results():
        keras.utils.set_random_seed(1)
        model = PartitionedAEF(
            (8, 8, 1),
            4,
            num_levels=17,
            encoder=networks.residual_encoder((8, 8, 1), 4, stages=stages),
            decoder=networks.residual_decoder(4, (8, 8, 1), stages=stages),
            core_flow="none",
            prior_flow="none",
        )
        model.adapt(x)
        z = model.encode(x)
        return [*model.get_weights(), z, model.decode(z), model.reconstruct(x)]

    wholes = results()
    # The largest layers have 8 * 8 * 4 entries: 12 events at once.
    monkeypatch.setattr(batching, "PASS_ENTRIES", 12 * 256)
    monkeypatch.setattr(Chain, "encoded", recorded)
    for whole, part in zip(wholes, results(), strict=True):
        np.testing.assert_allclose(part, whole, rtol=1e-4, atol=1e-5)
    assert sizes[:4] == [10, 10, 10, 10]
    assert not any(size is not None and size > 12 for size in sizes)


def test_mixed_precision_is_for_the_convolutions_only(digit_images):
    keras.utils.set_random_seed(1)
    none = {"prior_flow": "none", "posterior_flow": "none"}
    model = VAE((8, 8, 1), 4, num_levels=17, dtype="mixed_bfloat16", **RESIDUAL, **none)
    model.adapt(digit_images)
    single = VAE((8, 8, 1), 4, num_levels=17, **RESIDUAL, **none)
    single.set_weights(model.get_weights())
    for network in (model.encoder.network, model.decoder.network):
        blocks = [part for part in network.layers if isinstance(part, BottleneckBlock)]
        assert {block.compute_dtype for block in blocks} == {"bfloat16"}
        assert {weight.dtype for weight in network.weights} == {"float32"}
    # A location in bfloat16 has 8 bits.
    assert model.decoder.network.layers[-1].compute_dtype == "float32"
    got, wanted = (one.elbo(digit_images[:8], seed=0) for one in (model, single))
    assert got.dtype == tf.float32
    assert np.abs(got - wanted).max() > 0.0
    np.testing.assert_allclose(got, wanted, atol=1.0)  # nats


def updated(images, strategy, **compile_arguments):
    """A model after one step of gradient descent."""
    keras.utils.set_random_seed(1)
    stages = residual_stages(4, num_blocks=1)
    with strategy.scope():
        model = ExpandedAEF(
            (4, 4, 1),
            4,
            num_levels=17,
            encoder="dense",
            decoder=networks.residual_decoder(4, (4, 4, 1), stages=stages),
            core_flow="none",
            prior_flow="none",
        )
        sgd = keras.optimizers.SGD(1e-3)
        model.compile(sgd, jit_compile=False, **compile_arguments)
    model.fit(images, batch_size=len(images), verbose=0)
    return model


def num_convolutions(model, images):
    """Convolutions of one training step."""
    step = tf.function(model._gradient_step)
    graph = step.get_concrete_function(tf.constant(images)).graph
    return sum(node.type == "Conv2D" for node in graph.get_operations())


def test_rematerialization_computes_twice_and_changes_no_update(digit_images, mirrored):
    images = digit_images[:16, 2:6, 2:6]
    one = tf.distribute.get_strategy()
    expected, again = updated(images, one), updated(images, one, rematerialize=True)
    blocks = [
        layer
        for layer in expected.decoder.network.layers
        if isinstance(layer, BottleneckBlock)
    ]
    more = num_convolutions(again, images) - num_convolutions(expected, images)
    assert more == 4 * len(blocks) > 0
    others = updated(images, mirrored, rematerialize=True)
    for value, first, second in zip(
        expected.weights, again.weights, others.weights, strict=True
    ):
        np.testing.assert_allclose(first, value, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(second, value, rtol=1e-4, atol=1e-6)


def test_rematerialization_is_saved_and_leaves_forward_mode_alone(tmp_path, rng):
    none = {"prior_flow": "none", "core_flow": "none"}
    model = ExpandedAEF((4, 4, 1), 2, encoder="dense", decoder="residual", **none)
    model.compile(keras.optimizers.Adam(), rematerialize=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_compile_config()["rematerialize"] is True
    # Laplace takes the decoder's Jacobian in forward mode.
    x = rng.uniform(0.1, 0.9, [2, 4, 4, 1]).astype("float32")
    estimate = loaded.importance_estimate(x, 2, proposal="laplace")
    assert np.isfinite(estimate.log_prob).all()
