"""How models start: flows as the identity, first steps of equal size at any size."""

import os

import keras
import numpy as np
import pytest
import tensorflow as tf

from aef_tfp import flows, networks
from aef_tfp.models import ExpandedAEF, PixelMAF

F64 = {"dtype": "float64"}


@pytest.mark.parametrize("num_layers", [1, 2, 5])
@pytest.mark.parametrize("kind", [flows.MAF, flows.IAF])
def test_flows_start_as_the_identity_at_any_depth(kind, num_layers, rng):
    flow = kind(5, num_layers=num_layers, hidden_units=70, **F64)
    # Outliers, on which random scales would multiply.
    x = 100.0 * rng.normal(size=[8, 5])
    expected = x[:, ::-1] if num_layers % 2 else x
    for direction in ("forward", "inverse"):
        out = getattr(flow.bijector, direction)(tf.constant(x))
        np.testing.assert_allclose(out, expected, rtol=1e-12)
        log_det = getattr(flow.bijector, f"{direction}_log_det_jacobian")(
            tf.constant(x), 1
        )
        np.testing.assert_allclose(log_det, 0.0, atol=1e-12)


def test_a_pixel_maf_starts_as_a_standard_normal_of_its_preprocessed_pixels(rng):
    images = rng.uniform(0.05, 0.95, (64, 4, 4, 3)).astype("float32")
    model = PixelMAF((4, 4, 3), num_layers=2, hidden_units=16, **F64)
    model.preprocessing.adapt_inverse(tf.constant(images, tf.float64))
    y, log_det = model._preprocess(tf.constant(images, tf.float64))
    normal = -0.5 * np.log(2 * np.pi) * 48 - 0.5 * (y.numpy() ** 2).sum((1, 2, 3))
    np.testing.assert_allclose(model.log_prob(images), normal + log_det, rtol=1e-6)


def first_step(layer, inputs, optimizer):
    """How far a layer's outputs move in the first step, entry by entry."""
    before = layer(inputs)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(inputs))
    gradients = tape.gradient(loss, layer.trainable_variables)
    optimizer.apply(gradients, layer.trainable_variables)
    return np.abs(layer(inputs) - before)


@pytest.mark.parametrize(
    ("build", "limit"),
    [
        (lambda n: networks.EqualizedDense(3, use_bias=False), 256),
        (
            lambda n: networks.EqualizedDense(3, reference_inputs=1000, use_bias=False),
            1000,
        ),
        (lambda n: networks.MaskedDense(np.ones([n, 3])), 256),
    ],
)
def test_a_step_of_adam_moves_outputs_equally_far_for_any_number_of_inputs(
    build, limit
):
    # Inputs of 1, all of whose weights move in one direction: the farthest there is.
    for n in (100, 2_000, 50_000):
        layer = build(n)
        adam = keras.optimizers.Adam(1e-3)
        moved = first_step(layer, tf.ones([2, n]), adam)
        bias = 1e-3 if getattr(layer, "use_bias", True) else 0.0
        np.testing.assert_allclose(moved - bias, 1e-3 * min(n, limit), rtol=2e-3)


def test_an_equalized_layer_starts_as_a_dense_one(rng):
    x = rng.normal(size=[4, 1024]).astype("float32")
    initializer = {"kernel_initializer": keras.initializers.HeNormal(seed=1)}
    dense = keras.layers.Dense(5, activation="relu", **initializer)
    equalized = networks.EqualizedDense(5, activation="relu", **initializer)
    np.testing.assert_allclose(dense(x), equalized(x), rtol=1e-4, atol=1e-6)
    assert equalized.gain == 0.25
    equalized.kernel.assign(2.0 * dense.kernel / equalized.gain)
    dense.kernel.assign(2.0 * dense.kernel)
    np.testing.assert_allclose(dense(x), equalized(x), rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="reference_inputs must be at least 1, got 0"):
        networks.EqualizedDense(5, reference_inputs=0)


def test_made_starts_from_its_initial_parameters(rng):
    made = networks.MADE(4, num_parameters=3, initial_parameters=[1.0, -2.0, 0.5])
    parameters = made(rng.normal(size=[6, 4]).astype("float32")).numpy()
    np.testing.assert_array_equal(
        parameters, np.broadcast_to([1.0, -2.0, 0.5], (6, 4, 3))
    )
    with pytest.raises(ValueError, match=r"must be 2 numbers, got \[1.0\]"):
        networks.MADE(4, initial_parameters=[1.0])


def photograph_like(rng, count=32, side=64):
    """Smooth colours, whose pixels agree with each other as those of photographs."""
    small = rng.uniform(0.0, 255.0, (count, 4, 4, 3))
    return tf.cast(tf.image.resize(small, (side, side), "bicubic"), tf.uint8).numpy()


def check_first_steps(images, model, learning_rate, num_steps, rise):
    model.compile(
        keras.optimizers.Adam(learning_rate, global_clipnorm=200.0), jit_compile=False
    )
    history = model.fit(
        tf.data.Dataset.from_tensors(images).repeat(),
        steps_per_epoch=1,
        epochs=num_steps,
        verbose=0,
    ).history
    bits = np.array(history["joint_bits_per_dim"])
    norms = np.array(history["gradient_norm"])
    assert sum(history["skipped_updates"]) == 0.0
    assert bits.max() < bits[0] + rise
    assert norms.max() < 100 * norms[0]
    assert bits[-1] < bits[0]


def test_the_first_steps_on_large_colour_images_stay_near_the_start(rng):
    # At ten times the usual learning rate. With flows that start at random, or plain
    # dense layers in place of equalized ones, updates are skipped here.
    model = ExpandedAEF((64, 64, 3), 8, encoder="dense", decoder="dense")
    check_first_steps(photograph_like(rng), model, 1e-2, num_steps=12, rise=5.0)


@pytest.mark.realdata
def test_the_first_steps_on_photographs_stay_near_the_start():
    import tensorflow_datasets as tfds

    images = tfds.load(
        "celeba10k", split="train[:32]", data_dir=os.environ["AEF_TFP_DATA_DIR"]
    )
    images = np.stack([example["image"] for example in images.as_numpy_iterator()])
    images = tf.cast(tf.image.resize(images, (64, 64), antialias=True), tf.uint8)
    model = ExpandedAEF((64, 64, 3), 32)
    check_first_steps(images, model, 1e-3, num_steps=20, rise=0.5)
