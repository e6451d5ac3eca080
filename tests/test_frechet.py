import io
import os
import re
import sys
import tarfile
import zipfile

import keras
import numpy as np
import pytest
import scipy.linalg
import tensorflow as tf

from aef_tfp.metrics import classifier as classifier_module
from aef_tfp.metrics import inception as inception_module
from aef_tfp.metrics.checks import check_same_shape, checked_features, checked_images
from aef_tfp.metrics.classifier import (
    ClassifierFeatures,
    get_classifier,
    train_classifier,
)
from aef_tfp.metrics.features import (
    cache_dir,
    extract_features,
    feature_model_name,
)
from aef_tfp.metrics.frechet import (
    FeatureStatistics,
    feature_error,
    frechet_distance,
    kernel_distance,
)
from aef_tfp.metrics.inception import (
    GRAPH_SHA256,
    GRAPH_URL,
    InceptionFeatures,
    inception_features,
    inception_input,
)


def one_line(message):
    """A pattern for `pytest.raises(match=...)`: exactly this message."""
    assert "\n" not in message
    return "^" + re.escape(message) + "$"


# Checks.


def test_images_are_checked(rng):
    images = rng.uniform(size=[4, 3, 2, 1])
    assert checked_images("x", images).dtype == np.float64
    assert checked_images("x", images.astype(np.float16)).dtype == np.float32
    np.testing.assert_array_equal(checked_images("x", tf.constant(images)), images)
    edges = np.array([0.0, 1.0]).reshape(2, 1, 1, 1)
    np.testing.assert_array_equal(checked_images("x", edges), edges)


def test_each_wrong_set_of_images_is_refused_in_one_line(rng):
    def refused(images, message):
        with pytest.raises(ValueError, match=one_line(message)):
            checked_images("samples", images)

    good = rng.uniform(size=[4, 3, 2, 1])
    for shape in ([4, 3, 2], [4, 3, 2, 2], [4, 0, 2, 1]):
        refused(
            np.zeros(shape),
            f"samples must have shape [n, height, width, 1 or 3], got {shape}; give "
            "grey images a last axis of length 1.",
        )
    refused(
        np.zeros([2, 3, 2, 1], np.uint8),
        "samples must be floats in [0, 1], got uint8; divide integers by the number of "
        "levels - 1 (by 255.0 for 8 bits).",
    )
    refused(
        good[:1],
        "samples must be at least 2 images, got 1; one image has no covariance.",
    )
    bad = good.copy()
    bad[1] = np.nan  # six values of one image
    bad[3, 0, 0, 0] = np.inf
    refused(
        bad,
        "samples must be finite, but 2 of 4 images hold NaN or infinite values; see "
        "where they come from before leaving them out.",
    )
    bad = good.copy()
    bad[2] = 1.5
    bad[3, 0, 0, 0] = -0.25
    refused(
        bad,
        "samples must lie in [0, 1], got values from -0.25 to 1.5 (2 of 4 images); "
        "clip or rescale them.",
    )
    for value in (-0.25, 1.5):
        bad = np.full([2, 1, 1, 1], value)
        message = f"got values from {value} to {value} (2 of 2 images)"
        with pytest.raises(ValueError, match=re.escape(message)):
            checked_images("samples", bad)


def test_features_are_checked(rng):
    features = checked_features("f", rng.normal(size=[3, 2]).astype(np.float32))
    assert features.dtype == np.float64

    def refused(features, message):
        with pytest.raises(ValueError, match=one_line(message)):
            checked_features("features", features)

    for shape in ([3], [3, 0], [3, 1, 2]):
        refused(
            np.zeros(shape),
            f"features must have shape [n, k], got {shape}; pass one vector per image.",
        )
    refused(
        np.zeros([1, 2]),
        "features must be of at least 2 images, got 1; one image has no covariance.",
    )
    refused(
        [[np.nan, np.nan], [0.0, 1.0], [-np.inf, 0.0]],
        "features must be finite, but 2 of 3 rows hold NaN or infinite values; see "
        "where they come from before leaving them out.",
    )


def test_two_sets_must_fit():
    a, b = np.zeros([5, 4, 4, 1]), np.zeros([6, 4, 4, 1])
    check_same_shape("a", a, "b", b)
    check_same_shape("a", a, "b", b[:5], pairs=True)
    message = "a and b must be pairs, got 5 and 6; pass as many of one as of the other"
    with pytest.raises(ValueError, match=re.escape(message)):
        check_same_shape("a", a, "b", b, pairs=True)
    message = (
        "a and b must agree in all axes but the first, got shapes [5, 4, 4, 1] and "
        "[6, 4, 1]; make both in the same way."
    )
    with pytest.raises(ValueError, match=one_line(message)):
        check_same_shape("a", a, "b", b[:, 0])


# The Frechet distance.


def test_statistics_are_those_of_numpy(rng):
    # The offset would cost half of the digits in E[x x^T] - m m^T.
    features = 1e8 + rng.normal(size=[7, 3])
    statistics = FeatureStatistics.of(features)
    np.testing.assert_allclose(statistics.mean, features.mean(axis=0), rtol=1e-15)
    covariance = np.cov(features, rowvar=False)
    np.testing.assert_allclose(statistics.covariance, covariance, rtol=1e-7)
    assert statistics.num_images == 7
    message = (
        "mean and covariance must have shapes [k] and [k, k], got [3] and [3, 2]; use "
        "FeatureStatistics.of(features)."
    )
    with pytest.raises(ValueError, match=one_line(message)):
        FeatureStatistics(np.zeros(3), np.zeros([3, 2]), 5)


def test_the_distance_of_normals_with_commuting_covariances():
    a = FeatureStatistics(np.array([1.0, 0.0]), np.diag([4.0, 9.0]), 100)
    b = FeatureStatistics(np.array([0.0, 2.0]), np.diag([1.0, 25.0]), 100)
    # |m|^2 + (2 - 1)^2 + (3 - 5)^2
    assert frechet_distance(a, b) == pytest.approx(5.0 + 1.0 + 4.0, rel=1e-14)
    # One Gaussian of width 0: the distance to a point.
    point = FeatureStatistics(np.zeros(2), np.zeros([2, 2]), 100)
    assert frechet_distance(a, point) == pytest.approx(1.0 + 13.0, rel=1e-14)


def frechet_distance_of_scipy(a, b):
    root = scipy.linalg.sqrtm(a.covariance @ b.covariance)
    trace = np.trace(a.covariance + b.covariance - 2.0 * root.real)
    return np.sum((a.mean - b.mean) ** 2) + trace


def random_statistics(rng, k):
    factor = rng.normal(size=[k, k])
    return FeatureStatistics(rng.normal(size=k), factor @ factor.T, 100)


@pytest.mark.parametrize("k", [1, 2, 10])
def test_the_distance_is_that_of_the_matrix_square_root_and_symmetric(rng, k):
    a, b = random_statistics(rng, k), random_statistics(rng, k)
    if k > 1:
        commutator = a.covariance @ b.covariance - b.covariance @ a.covariance
        assert np.abs(commutator).max() > 0.1
    expected = frechet_distance_of_scipy(a, b)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b), rel=1e-12)


@pytest.mark.parametrize("num_images", [20, 300])
def test_equal_sets_have_distance_zero_even_if_they_are_few(rng, num_images):
    features = rng.normal(size=[num_images, 100]) * np.logspace(-3, 2, 100)
    a = FeatureStatistics.of(features)
    b = FeatureStatistics.of(rng.permutation(features))
    scale = np.trace(a.covariance)
    assert 0.0 <= frechet_distance(a, b) < 1e-11 * scale
    shifted = FeatureStatistics.of(features + 0.5)
    distance = frechet_distance(a, shifted)
    assert distance == pytest.approx(25.0, abs=1e-10 * scale)


def test_singular_covariances_of_other_rank_lose_no_digits(rng):
    # Two sets in one subspace of 5 of 60 features. Its own five coordinates have
    # regular covariances and the same distance.
    basis = np.linalg.qr(rng.normal(size=[60, 5]))[0]
    x, y = rng.normal(size=[40, 5]), rng.normal(size=[30, 5]) * [1, 2, 3, 4, 0] + 1.0
    exact = frechet_distance(FeatureStatistics.of(x), FeatureStatistics.of(y))
    embedded = frechet_distance(
        FeatureStatistics.of(x @ basis.T), FeatureStatistics.of(y @ basis.T)
    )
    assert embedded == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_distance_has_the_unit_of_the_features_squared(rng, scale):
    # No threshold is absolute.
    x, y = rng.normal(size=[40, 5]), rng.normal(size=[30, 5]) * [1, 2, 3, 4, 5]
    distance = frechet_distance(FeatureStatistics.of(x), FeatureStatistics.of(y))
    scaled = frechet_distance(
        FeatureStatistics.of(scale * x), FeatureStatistics.of(scale * y)
    )
    assert scaled == pytest.approx(scale**2 * distance, rel=1e-9)


def test_the_distance_needs_the_same_features(rng):
    message = (
        "a and b must have equally many features, got 2 and 3; extract both with the "
        "same feature model."
    )
    with pytest.raises(ValueError, match=one_line(message)):
        frechet_distance(random_statistics(rng, 2), random_statistics(rng, 3))


# The kernel distance and the error of pairs.


def discrepancy_by_loops(a, b):
    def kernel(x, y):
        return (sum(s * t for s, t in zip(x, y, strict=True)) / len(x) + 1.0) ** 3

    def mean(values):
        return sum(values) / len(values)

    def others(x):
        n = range(len(x))
        return mean([kernel(x[i], x[j]) for i in n for j in n if i != j])

    return others(a) + others(b) - 2.0 * mean([kernel(x, y) for x in a for y in b])


def test_kid_is_the_double_loop(rng):
    a, b = rng.normal(size=[6, 3]), rng.normal(size=[6, 3]) + 0.5
    distance = kernel_distance(a, b, num_subsets=3)
    assert distance.value == pytest.approx(discrepancy_by_loops(a, b), rel=1e-12)
    # All images in every subset, whatever their order.
    assert distance.deviation == pytest.approx(0.0, abs=1e-13)
    assert (distance.subset_size, distance.num_subsets) == (6, 1)


def test_kid_subsets_are_drawn_without_replacement_and_averaged(rng):
    # Of three against three images, subsets of two: nine values, each equally likely.
    a, b = rng.normal(size=[3, 2]), rng.normal(size=[3, 2]) + 1.0
    pairs = [[0, 1], [0, 2], [1, 2]]
    values = [discrepancy_by_loops(a[i], b[j]) for i in pairs for j in pairs]
    distance = kernel_distance(a, b, num_subsets=3000, subset_size=2)
    error = 4.0 * np.std(values) / np.sqrt(3000)
    assert distance.value == pytest.approx(np.mean(values), abs=error)
    assert distance.deviation == pytest.approx(np.std(values), rel=0.1)
    one = kernel_distance(a, b, num_subsets=1, subset_size=2, seed=4)
    assert np.isclose(one.value, values, rtol=1e-12).any()
    assert one.deviation == 0.0


def test_kid_knows_its_standard_error_without_subsets():
    """Few images are all in one subset: its deviation, 0, would be no error at all."""
    rng = np.random.default_rng(0)
    distances = []
    for _ in range(300):
        a, b = rng.normal(size=[40, 4]), rng.normal(size=[60, 4]) + 0.5
        distances.append(kernel_distance(a, b, num_subsets=1, subset_size=40))
    values = [distance.value for distance in distances]
    errors = [distance.standard_error for distance in distances]
    # The value is that of 40 of the 60 images, the error that of all.
    assert 0.8 < np.mean(errors) / np.std(values) < 1.2
    whole = kernel_distance(a[:40], b[:40])
    assert whole.num_subsets == 1
    assert whole.standard_error > 0.5 * np.std(values)
    assert kernel_distance(a[:2], b).standard_error is None


def test_the_jackknife_leaves_out_each_image_in_turn(rng, monkeypatch):
    a, b = rng.normal(size=[5, 3]), rng.normal(size=[5, 3]) + 0.5

    def value(x, y):
        n, m = len(x), len(y)
        within = [
            np.sum((z @ z.T / 3 + 1) ** 3 * (1 - np.eye(len(z))))
            / len(z)
            / (len(z) - 1)
            for z in (x, y)
        ]
        return sum(within) - 2 * np.sum((x @ y.T / 3 + 1) ** 3) / n / m

    variance = 0.0
    for left in (
        [value(np.delete(a, i, 0), b) for i in range(5)],
        [value(a, np.delete(b, i, 0)) for i in range(5)],
    ):
        variance += 4 / 5 * np.sum((left - np.mean(left)) ** 2)
    monkeypatch.setattr("aef_tfp.metrics.frechet._KERNEL_ENTRIES", 7)
    error = kernel_distance(a, b).standard_error
    assert error == pytest.approx(np.sqrt(variance), rel=1e-10)


def test_kid_of_one_distribution_is_zero_on_average_and_follows_its_seed(rng):
    a, b = rng.normal(size=[2000, 8]), rng.normal(size=[2000, 8])
    same = kernel_distance(a, b, num_subsets=50, subset_size=200)
    assert same.subset_size == 200
    # A biased estimate (with the diagonal) would be 7 / 200 too large.
    assert abs(same.value) < 0.005
    assert 0.0 < same.deviation < 0.05
    other = kernel_distance(a, b + 0.5, num_subsets=50, subset_size=200)
    assert other.value > 20 * abs(same.value)
    assert other.value > 0.5
    again = kernel_distance(a, b, num_subsets=50, subset_size=200)
    reseeded = kernel_distance(a, b, num_subsets=50, subset_size=200, seed=1)
    assert again == same != reseeded


def test_kid_caps_the_subsets_and_checks_its_arguments(rng):
    a, b = rng.normal(size=[9, 2]), rng.normal(size=[5, 2])
    assert kernel_distance(a, b, num_subsets=2).subset_size == 5
    assert kernel_distance(b, a, num_subsets=2).subset_size == 5
    with pytest.raises(ValueError, match=r"^num_subsets must be at least 1, got 0\.$"):
        kernel_distance(a, b, num_subsets=0)
    with pytest.raises(ValueError, match=r"^subset_size must be at least 2, got 1\.$"):
        kernel_distance(a, b, subset_size=1)
    with pytest.raises(ValueError, match=r"^features_a and features_b must agree in"):
        kernel_distance(a, b[:, :1])


def test_the_feature_error_is_one_number_per_pair():
    a = np.array([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    b = np.array([[1.0, 4.0, 2.0], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(feature_error(a, b), [5.0 / 3.0, 0.0])
    with pytest.raises(ValueError, match=r"^features_a and features_b must be pairs"):
        feature_error(a, np.zeros([3, 3]))


# Features of a whole set.


class Recorder:
    """A feature model that notes the batches: two averages of each image."""

    name = "recorder"

    def __init__(self):
        self.batches = []

    def __call__(self, images):
        self.batches.append(np.array(images))
        return np.stack([images.mean((1, 2, 3)), images[:, 0].mean((1, 2))], axis=1)


def test_batches_have_one_size_and_the_padding_is_dropped(rng):
    images = rng.uniform(size=[7, 4, 4, 3])
    model, done = Recorder(), []
    features = extract_features(model, images, batch_size=3, progress=done.append)
    assert [batch.shape for batch in model.batches] == 3 * [(3, 4, 4, 3)]
    assert {batch.dtype for batch in model.batches} == {np.dtype(np.float32)}
    assert done == [3, 6, 7]
    assert features.dtype == np.float64
    np.testing.assert_allclose(features, Recorder()(images), rtol=1e-6)
    # A small set is no reason to compute a large batch.
    model = Recorder()
    extract_features(model, images)
    assert [len(batch) for batch in model.batches] == [7]


def test_a_compiled_model_is_traced_once(rng):
    traces = []

    @tf.function
    def model(images):
        traces.append(images.shape)
        return tf.reduce_mean(images, [1, 2])

    images = rng.uniform(size=[10, 4, 4, 3])
    features = extract_features(model, images, batch_size=4)
    assert traces == [(4, 4, 4, 3)]
    np.testing.assert_allclose(features, images.mean((1, 2)), rtol=1e-6)


def test_a_keras_model_runs_in_inference_mode_and_may_keep_pooled_axes(rng):
    model = keras.Sequential(
        [
            keras.layers.Dropout(0.5),
            keras.layers.GlobalAveragePooling2D(keepdims=True),
        ],
        name="average",
    )
    images = rng.uniform(size=[5, 4, 4, 3])
    features = extract_features(model, images, batch_size=2)
    np.testing.assert_allclose(features, images.mean((1, 2)), rtol=1e-6)


def test_outputs_that_are_no_features_are_refused_in_one_line(rng):
    images = rng.uniform(size=[4, 3, 3, 1])

    def refused(output, message):
        def model(images):
            return output

        with pytest.raises(ValueError, match=one_line(message)):
            extract_features(model, images)

    message = (
        "feature model 'model' must return [4, k] for 4 images, got {}; pool or flatten"
        " its output to one vector per image."
    )
    for shape in ([4], [3, 2], [4, 2, 1, 5], []):
        refused(np.zeros(shape), message.format(shape))
    refused(
        (np.zeros([4, 2]), np.zeros([4, 3])),
        "feature model 'model' must return one array [4, k], got a tuple of 2; pass a "
        "model of one output.",
    )
    output = np.zeros([4, 2])
    output[1:3] = np.nan
    refused(
        output,
        "the features of 'model' must be finite, but 2 of 4 rows hold NaN or infinite "
        "values; see where they come from before leaving them out.",
    )
    with pytest.raises(ValueError, match=r"^images must be floats in \[0, 1\], got in"):
        extract_features(Recorder(), np.zeros([4, 3, 3, 1], int))
    with pytest.raises(ValueError, match=r"^batch_size must be at least 1, got 0\.$"):
        extract_features(Recorder(), images, batch_size=0)


def test_a_feature_model_is_called_by_its_name():
    assert feature_model_name(Recorder()) == "recorder"
    assert feature_model_name(feature_model_name) == "feature_model_name"
    assert feature_model_name(object()) == "object"


def test_the_whole_way_from_images_to_the_distance(rng):
    a = rng.uniform(size=[60, 6, 6, 1])
    b = rng.uniform(size=[50, 6, 6, 1]) ** 2

    def model(images):  # five features, computed in another way below
        return tf.reshape(images, [-1, 36])[:, :5] * 3.0

    distance = frechet_distance(
        *(
            FeatureStatistics.of(extract_features(model, x, batch_size=7))
            for x in (a, b)
        )
    )
    x, y = (3.0 * images.reshape(-1, 36)[:, :5] for images in (a, b))
    c_x, c_y = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(scipy.linalg.sqrtm(c_x) @ c_y @ scipy.linalg.sqrtm(c_x))
    mean = np.sum((x.mean(0) - y.mean(0)) ** 2)
    expected = mean + np.trace(c_x) + np.trace(c_y) - 2.0 * np.trace(root.real)
    assert distance == pytest.approx(expected, rel=1e-6)
    assert expected > 0.1


# Inception. The stand-in has the nodes, the old operations and the static shapes of
# the real graph, but 4 features instead of 2,048.

KERNEL = np.random.default_rng(5).normal(size=[3, 3, 3, 4]).astype(np.float32)
MEAN = np.array([0.5, -1.0, 0.0, 2.0], np.float32)
VARIANCE = np.array([0.3, 2.0, 1.0, 0.5], np.float32)
OFFSET = np.array([0.1, 0.2, -0.3, 0.0], np.float32)
EPSILON = 1e-3


def attribute(**value):
    return tf.compat.v1.AttrValue(**value)


def stand_in_graph(producer=8, leave_out=()):
    graph = tf.compat.v1.GraphDef()
    graph.versions.producer = producer
    floats = attribute(type=tf.float32.as_datatype_enum)

    def add(operation, name, inputs, **attributes):
        if name in leave_out:
            return
        node = graph.node.add()
        node.op, node.name = operation, name
        node.input.extend(inputs)
        for key, value in attributes.items():
            node.attr[key].CopyFrom(value)

    def constant(name, value):
        value = np.asarray(value)
        data_type = attribute(type=tf.as_dtype(value.dtype).as_datatype_enum)
        proto = attribute(tensor=tf.make_tensor_proto(value))
        add("Const", name, [], dtype=data_type, value=proto)

    def shapes(*shape):
        shapes = attribute()
        shapes.list.shape.add().CopyFrom(tf.TensorShape(shape).as_proto())
        return shapes

    def integers(*values):
        integers = attribute()
        integers.list.i.extend(values)
        return integers

    string = attribute(type=tf.string.as_datatype_enum)
    add("Placeholder", "DecodeJpeg/contents", [], dtype=string)
    add("DecodeJpeg", "DecodeJpeg", ["DecodeJpeg/contents"], channels=attribute(i=3))
    bytes_ = attribute(type=tf.uint8.as_datatype_enum)
    add("Cast", "Cast", ["DecodeJpeg"], SrcT=bytes_, DstT=floats)
    constant("ExpandDims/dim", np.int32(0))
    add("ExpandDims", "ExpandDims", ["Cast", "ExpandDims/dim"], T=floats)
    constant("ResizeBilinear/size", np.array([299, 299], np.int32))
    note = shapes(1, 299, 299, 3)
    size = ["ExpandDims", "ResizeBilinear/size"]
    add("ResizeBilinear", "ResizeBilinear", size, T=floats, _output_shapes=note)
    constant("Sub/y", np.float32(128.0))
    first = ["ResizeBilinear", "Sub/y"]
    add("Sub", "Sub", first, T=floats, _output_shapes=note)
    constant("Mul/y", np.float32(1.0 / 128.0))
    add("Mul", "Mul", ["Sub", "Mul/y"], T=floats, _output_shapes=note)
    constant("conv/conv2d_params", KERNEL)
    add(
        "Conv2D",
        "conv/Conv2D",
        ["Mul", "conv/conv2d_params"],
        T=floats,
        strides=integers(1, 2, 2, 1),
        padding=attribute(s=b"VALID"),
        _output_shapes=shapes(1, 149, 149, 4),
    )
    parameters = {
        "moving_mean": MEAN,
        "moving_variance": VARIANCE,
        "beta": OFFSET,
        "gamma": np.full(4, 7.0, np.float32),  # unused, as in the real graph
    }
    for key, value in parameters.items():
        constant(f"conv/batchnorm/{key}", value)
    add(
        "BatchNormWithGlobalNormalization",
        "conv/batchnorm",
        ["conv/Conv2D", *(f"conv/batchnorm/{key}" for key in parameters)],
        T=floats,
        variance_epsilon=attribute(f=EPSILON),
        scale_after_normalization=attribute(b=False),
        _output_shapes=shapes(1, 149, 149, 4),
    )
    add("Relu", "conv", ["conv/batchnorm"], T=floats)
    add(
        "AvgPool",
        "pool_3",
        ["conv"],
        T=floats,
        ksize=integers(1, 149, 149, 1),
        strides=integers(1, 1, 1, 1),
        padding=attribute(s=b"VALID"),
        _output_shapes=shapes(1, 1, 1, 4),
    )
    # As in the real graph, what follows is made for one image.
    constant("pool_3/_reshape/shape", np.array([1, 4], np.int32))
    last = ["pool_3", "pool_3/_reshape/shape"]
    add("Reshape", "pool_3/_reshape", last, T=floats, _output_shapes=shapes(1, 4))
    return graph


def stand_in_features(images):
    """What the stand-in must give for `[n, 299, 299, 3]` from 0 to 255."""
    x = (np.asarray(images, np.float64) - 128.0) / 128.0
    x = tf.nn.conv2d(x, KERNEL.astype(np.float64), 2, "VALID").numpy()
    x = (x - MEAN) / np.sqrt(VARIANCE.astype(np.float64) + EPSILON) + OFFSET
    return np.maximum(x, 0.0).mean(axis=(1, 2))


@pytest.fixture(scope="module")
def graph_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("graph") / "classify_image_graph_def.pb"
    path.write_bytes(stand_in_graph().SerializeToString())
    return path


@pytest.fixture(scope="module")
def inception(graph_file):
    return InceptionFeatures(graph_file)


def archive_of(path, content, name="./classify_image_graph_def.pb"):
    with tarfile.open(path, "w:gz") as archive:
        for member, data in (("LICENSE", b"text"), (name, content)):
            info = tarfile.TarInfo(member)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("num_images", [1, 5])
def test_the_graph_is_fed_behind_its_resize_for_any_batch(inception, rng, num_images):
    # Of the final size, so that nothing is resized: values from 0 to 255.
    images = rng.uniform(size=[num_images, 299, 299, 3]).astype(np.float32)
    images[0, 0, 0] = [0.0, 1.0, 0.5]
    features = inception(images)
    assert features.shape == (num_images, 4)
    expected = stand_in_features(255.0 * images.astype(np.float64))
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)


def test_small_grey_images_run_in_padded_batches(inception, rng):
    images = rng.uniform(size=[5, 8, 8, 1])
    features = extract_features(inception, images, batch_size=2)
    expected = stand_in_features(inception_input(images))
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)


def test_the_graph_is_imported_once(graph_file, monkeypatch, rng):
    imports = []
    original = tf.graph_util.import_graph_def

    def counted(*args, **kwargs):
        imports.append(1)
        return original(*args, **kwargs)

    monkeypatch.setattr(tf.graph_util, "import_graph_def", counted)
    model = InceptionFeatures(graph_file)
    num_nodes = len(model._session.graph.get_operations())
    for num_images in (1, 3, 3):
        model(rng.uniform(size=[num_images, 4, 4, 3]))
    assert imports == [1]
    # The notes of the file on the shapes of one image are not believed.
    assert model._features.shape.as_list() == [None, 1, 1, 4]
    assert len(model._session.graph.get_operations()) == num_nodes


def test_a_function_cannot_run_the_graph():
    # Why a session is used. If this ever passes, the session can go.
    graph = stand_in_graph()
    for node in graph.node:
        node.attr.pop("_output_shapes", None)

    def imported(images):
        return tf.graph_util.import_graph_def(
            graph, {"ResizeBilinear:0": images}, ["pool_3:0"]
        )

    spec = tf.TensorSpec([None, 299, 299, 3], tf.float32)
    function = tf.compat.v1.wrap_function(imported, [spec])
    with pytest.raises(tf.errors.UnimplementedError, match="removed in version 9"):
        function(tf.zeros([1, 299, 299, 3]))


def half_pixel_bilinear(image, size):
    """The resize by its formula: `[H, W]` to `[size, size]`."""

    def weights(n):
        matrix = np.zeros([size, n])
        for i in range(size):
            place = (i + 0.5) * n / size - 0.5
            low = int(np.floor(place))
            for neighbour, weight in ((low, low + 1 - place), (low + 1, place - low)):
                matrix[i, min(max(neighbour, 0), n - 1)] += weight
        return matrix

    return weights(image.shape[0]) @ image @ weights(image.shape[1]).T


@pytest.mark.parametrize("shape", [(8, 11), (400, 350)])
def test_the_resize_is_bilinear_with_half_pixel_centres(rng, shape):
    # The second shape shrinks: an antialiased resize would differ.
    images = rng.uniform(size=[2, *shape, 3])
    resized = inception_input(images).numpy()
    assert resized.shape == (2, 299, 299, 3)
    expected = 255.0 * half_pixel_bilinear(images[1, :, :, 2], 299)
    np.testing.assert_allclose(resized[1, :, :, 2], expected, atol=2e-2)


def test_grey_images_get_three_equal_channels(rng):
    images = rng.uniform(size=[2, 8, 8, 1])
    resized = inception_input(images).numpy()
    expected = inception_input(np.repeat(images, 3, axis=-1)).numpy()
    np.testing.assert_array_equal(resized, expected)
    with pytest.raises(ValueError, match=r"^images must have shape \[n, height, wid"):
        inception_input(images[0])


def test_the_name_says_whether_it_is_the_published_graph(
    graph_file, inception, monkeypatch
):
    assert inception.sha256 != GRAPH_SHA256
    expected = f"graph {inception.sha256[:8]} (not the published Inception-v3)"
    assert inception.name == expected
    monkeypatch.setattr(inception_module, "GRAPH_SHA256", inception.sha256)
    assert InceptionFeatures(graph_file).name == "Inception-v3 of 2015-12-05"


def test_the_archive_is_as_good_as_the_file(graph_file, inception, tmp_path, rng):
    path = archive_of(tmp_path / "graph.tgz", graph_file.read_bytes())
    images = rng.uniform(size=[2, 9, 9, 1])
    model = inception_features(path)
    assert model.sha256 == inception.sha256
    np.testing.assert_array_equal(model(images), inception(images))


def test_files_that_are_no_such_graph_are_refused_in_one_line(
    tmp_path, graph_file, rng
):
    def refused(path, error, message):
        with pytest.raises(error, match=one_line(message)):
            inception_features(path)

    path = tmp_path / "graph.pb"
    refused(
        path,
        FileNotFoundError,
        f"there is no file {str(path)!r}: pass classify_image_graph_def.pb, or the "
        f"archive {GRAPH_URL} that holds it",
    )
    for name in ("ResizeBilinear", "pool_3"):
        graph = stand_in_graph(leave_out=[name])
        path.write_bytes(graph.SerializeToString())
        refused(
            path,
            ValueError,
            f"the graph in {str(path)!r} has no node {name!r}: pass "
            f"classify_image_graph_def.pb from {GRAPH_URL}",
        )
    path.write_bytes(graph_file.read_bytes()[:-7])
    refused(
        path,
        ValueError,
        f"{str(path)!r} is no TensorFlow graph: pass classify_image_graph_def.pb from "
        f"{GRAPH_URL}",
    )
    archive_of(path, b"", name="other.pb")
    refused(
        path,
        ValueError,
        f"archive {str(path)!r} has no classify_image_graph_def.pb: fetch {GRAPH_URL}",
    )
    archive_of(path, repr(list(range(50_000))).encode())
    content = path.read_bytes()
    broken_off = content[:50_000]
    altered = content[:50_000] + rng.bytes(1000) + content[51_000:]
    for damaged in (broken_off, altered):
        path.write_bytes(damaged)
        message = r"^archive '.*' is damaged \(.*\): delete it and fetch http.* again$"
        with pytest.raises(ValueError, match=message):
            inception_features(path)


@pytest.fixture
def keras_home(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    return tmp_path / "keras"


def test_the_graph_is_downloaded_into_the_folder_of_keras_and_verified(
    graph_file, inception, keras_home, monkeypatch, capsys
):
    calls = []

    def get_file(fname, origin, cache_dir, cache_subdir):
        calls.append(origin)
        print("Downloading data from ...")
        path = os.path.join(cache_dir, cache_subdir, fname)
        return archive_of(path, graph_file.read_bytes())

    monkeypatch.setattr(keras.utils, "get_file", get_file)
    path = keras_home / "aef_tfp" / "inception-2015-12-05.tgz"
    # The stand-in is not the published graph.
    message = (
        f"the graph in {str(path)!r} has the SHA-256 {inception.sha256[:8]}... instead "
        "of 009d6814...: delete the file and fetch it again, or pass "
        "--inception-weights FILE (weights=FILE) to use one you trust"
    )
    with pytest.raises(ValueError, match=one_line(message)):
        inception_features()
    assert calls == [GRAPH_URL]
    assert path.is_file()
    # The standard output is kept for results.
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Downloading" in captured.err
    with pytest.raises(ValueError, match=one_line(message)):
        inception_features(download=False)
    assert calls == [GRAPH_URL]
    monkeypatch.setattr(inception_module, "GRAPH_SHA256", inception.sha256)
    assert inception_features(download=False).sha256 == inception.sha256
    assert inception_features().sha256 == inception.sha256


def test_a_failed_download_says_what_to_fetch_and_where_to_put_it(
    keras_home, monkeypatch
):
    def get_file(*args, **kwargs):
        raise Exception("URL fetch failure on ...: None --\n no route")

    monkeypatch.setattr(keras.utils, "get_file", get_file)
    path = keras_home / "aef_tfp" / "inception-2015-12-05.tgz"
    remedy = (
        f"fetch {GRAPH_URL} by other means and put it at {str(path)!r}, or pass "
        "--inception-weights FILE (weights=FILE)"
    )
    with pytest.raises(
        OSError,
        match=one_line(
            "cannot download the Inception graph (URL fetch failure on ...: None -- no "
            f"route): {remedy}"
        ),
    ):
        inception_features()
    with pytest.raises(
        FileNotFoundError,
        match=one_line(
            f"the Inception graph is not at hand and download is off: {remedy}"
        ),
    ):
        inception_features(download=False)


def test_the_cache_is_in_the_folder_of_keras(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "aef_tfp"
    monkeypatch.delenv("KERAS_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".keras" / "aef_tfp"


# The classifier.


@pytest.fixture(scope="module")
def digits():
    from sklearn.datasets import load_digits

    data = load_digits()
    images = data.images[..., None].astype(np.uint8)
    return images[:1347], data.target[:1347], images[1347:], data.target[1347:]


@pytest.fixture(scope="module")
def on_digits(digits):
    return train_classifier(*digits[:2], num_levels=17)


def test_the_classifier_learns_the_digits(digits, on_digits):
    images, labels = digits[2] / 16.0, digits[3]
    assert on_digits.accuracy(images, labels) > 0.94
    # More than one part of 500 images, counted by hand.
    images, labels = digits[0] / 16.0, digits[1].copy()
    labels[:700] = 10
    right = on_digits._outputs(images.astype(np.float32))[1].numpy().argmax(-1)
    expected = np.mean(right == labels)
    assert 0.4 < expected < 0.5
    assert on_digits.accuracy(images, labels) == pytest.approx(expected)


def test_the_features_tell_two_digits_apart(digits, on_digits):
    images, labels = digits[2] / 16.0, digits[3]
    assert on_digits(images[:3]).shape == (3, 128)

    def statistics(images):
        return FeatureStatistics.of(extract_features(on_digits, images))

    ones, eights = images[labels == 1], images[labels == 8]
    within = frechet_distance(statistics(ones[::2]), statistics(ones[1::2]))
    between = frechet_distance(statistics(ones), statistics(eights))
    assert between > 3.0 * within


def test_training_follows_its_seed_and_leaves_the_global_one_alone(digits):
    images, labels = digits[0][:300], digits[1][:300]

    def fingerprint(seed):
        return train_classifier(
            images, labels, num_levels=17, epochs=2, seed=seed
        ).fingerprint

    keras.utils.set_random_seed(3)
    expected = np.random.random(), keras.random.uniform([2]).numpy().tolist()
    keras.utils.set_random_seed(3)
    first = fingerprint(0)
    found = np.random.random(), keras.random.uniform([2]).numpy().tolist()
    assert found == expected
    keras.utils.set_random_seed(4)
    assert fingerprint(0) == first
    assert fingerprint(1) != first


def test_the_default_is_enough_steps_for_small_and_large_sets(monkeypatch):
    class CountedError(Exception):
        pass

    def schedule(rate, num_steps):
        raise CountedError(num_steps)

    monkeypatch.setattr(keras.optimizers.schedules, "CosineDecay", schedule)
    for num_images, num_steps in ((128 * 1000 + 5, 1000), (128 * 300, 900), (50, 800)):
        images = np.zeros([num_images, 1, 1, 1], np.uint8)
        with pytest.raises(CountedError, match=f"^{num_steps}$"):
            train_classifier(images, np.arange(num_images) % 2)


def test_the_float_type_of_the_user_does_not_matter(digits):
    keras.config.set_floatx("float64")
    try:
        network = classifier_module._network((8, 8, 1), 10, seed=0)
    finally:
        keras.config.set_floatx("float32")
    assert {weight.dtype for weight in network.weights} == {"float32"}


@pytest.mark.parametrize(
    ("shape", "num_blocks"), [((8, 8, 1), 2), ((28, 28, 1), 2), ((64, 40, 3), 3)]
)
def test_the_network_grows_with_the_images(shape, num_blocks):
    network = classifier_module._network(shape, 7, seed=0)
    pools = [x for x in network.layers if isinstance(x, keras.layers.MaxPooling2D)]
    assert len(pools) == num_blocks
    assert [output.shape for output in network.outputs] == [(None, 128), (None, 7)]
    # One seed for all layers would give them the same random numbers.
    kernels = [layer.kernel.numpy() for layer in network.layers if layer.weights]
    signs = {tuple(np.sign(kernel.ravel()[:40])) for kernel in kernels}
    assert len(signs) == len(kernels) == num_blocks + 2


def test_a_saved_classifier_is_the_same(digits, on_digits, tmp_path):
    path = tmp_path / "digits.keras"
    saved = ClassifierFeatures(on_digits.network, "digits", 0.9876)
    weights = saved.fingerprint
    assert re.fullmatch("[0-9a-f]{8}", weights)
    assert (
        saved.name == f"classifier on digits (test accuracy 0.988, weights {weights})"
    )
    assert on_digits.name == f"classifier (weights {weights})"
    saved.save(path)
    assert os.listdir(tmp_path) == ["digits.keras"]
    loaded = ClassifierFeatures.load(path)
    assert loaded.name == saved.name
    images = digits[2][:9] / 16.0
    np.testing.assert_array_equal(loaded(images), saved(images))


def test_a_save_that_fails_leaves_the_old_file(on_digits, tmp_path, monkeypatch):
    path = tmp_path / "digits.keras"
    path.write_text("old")

    def replace(source, target):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(OSError, match="disk full"):
            on_digits.save(path)
    assert os.listdir(tmp_path) == ["digits.keras"]
    assert path.read_text() == "old"


def test_files_that_are_no_classifier_are_refused_in_one_line(on_digits, tmp_path):
    path = tmp_path / "digits.keras"
    with pytest.raises(
        FileNotFoundError, match=one_line(f"there is no classifier at {str(path)!r}")
    ):
        ClassifierFeatures.load(path)
    path.write_text("no archive")
    start = re.escape(f"{str(path)!r} is no classifier of this package, or is damaged")
    with pytest.raises(ValueError, match=rf"^{start} \(.*\): delete it$"):
        ClassifierFeatures.load(path)
    # Someone else's network, with the facts of this one.
    on_digits.save(path)
    with zipfile.ZipFile(path) as archive:
        facts = archive.read("aef_tfp.json")
    other = classifier_module._network((8, 8, 1), 10, seed=1)
    other.save(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("aef_tfp.json", facts)
    fingerprint = ClassifierFeatures(other).fingerprint
    message = f"{start} .its weights have changed to {fingerprint}.: delete it$"
    with pytest.raises(ValueError, match=message):
        ClassifierFeatures.load(path)


def test_the_cache_holds_one_file_per_data_set_seed_and_data(
    digits, tmp_path, monkeypatch, capsys
):
    trainings = []

    def train(images, labels, **options):
        trainings.append(options["seed"])
        network = classifier_module._network((8, 8, 1), 10, options["seed"])
        return ClassifierFeatures(network)

    monkeypatch.setattr(classifier_module, "train_classifier", train)
    data = [part[:150] for part in digits]

    def get(*data, **options):
        return get_classifier(
            "digits", *data, num_levels=17, cache_dir=tmp_path, **options
        )

    first = get(*data)
    accuracy = first.accuracy(data[2] / 16.0, data[3])
    assert first.test_accuracy == accuracy
    assert first.name.startswith(
        f"classifier on digits (test accuracy {accuracy:.3f}, "
    )
    assert get(*data).name == first.name
    assert trainings == [0]
    (file,) = tmp_path.iterdir()
    assert re.fullmatch(r"classifier-digits-seed0-v1-[0-9a-f]{8}\.keras", file.name)
    assert get(*data, seed=1).fingerprint != first.fingerprint
    for i in range(4):  # other data under the same name
        other = [part.copy() for part in data]
        other[i][0] = 3 - np.minimum(other[i][0], 3)
        get(*other)
    assert trainings == [0, 1, 0, 0, 0, 0]
    assert capsys.readouterr().err == ""

    file.write_bytes(file.read_bytes()[:1000])
    assert get(*data).fingerprint == first.fingerprint
    assert trainings[6:] == [0]
    assert re.fullmatch(
        r"warning: '.*\.keras' is no classifier .*: delete it; training anew\n",
        capsys.readouterr().err,
    )
    assert get(*data).name == first.name
    assert trainings[7:] == []


def test_the_name_of_a_data_set_may_hold_any_sign(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(classifier_module, "_LEAST_STEPS", 1)
    data = [part[:50] for part in digits]
    get_classifier("../a b", *data, num_levels=17, cache_dir=tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    assert file.name.startswith("classifier-___a_b-seed0-v1-")


def test_a_folder_that_cannot_be_written_to_costs_a_warning_only(
    digits, keras_home, capsys, monkeypatch
):
    keras_home.write_text("a file where the folder should be")
    monkeypatch.setattr(classifier_module, "_LEAST_STEPS", 1)
    data = [part[:50] for part in digits]
    classifier = get_classifier("a/b", *data, num_levels=17, verbose=1)
    assert classifier.name.startswith("classifier on a/b (test accuracy")
    progress, warning = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"classifier: epoch 1 of 1, mean loss \d\.\d{4}", progress)
    assert warning.startswith(f"warning: cannot keep the {classifier.name} ([Errno")
    assert warning.endswith("); it will be trained again next time")


def test_wrong_data_for_the_classifier_are_refused_in_one_line(digits, on_digits):
    images, labels = digits[0][:20], digits[1][:20]

    def refused(message, images=images, labels=labels, num_levels=17):
        with pytest.raises(ValueError, match=one_line(message)):
            train_classifier(images, labels, num_levels=num_levels)

    refused(
        "a classifier needs labels, and this data set has none: use the features of "
        "Inception, --inception-weights FILE",
        labels=None,
    )
    refused(
        "images and labels of a classifier must be integers, got float64 and int64; "
        "pass the pixels as the data set has them.",
        images=images / 16.0,
    )
    refused(
        "labels must have shape [20], one per image, and not be empty, got [19].",
        labels=labels[:19],
    )
    refused(
        "images must lie in 0 ... 15 (num_levels = 16), got values from 0 to 16; pass "
        "the number of levels of the data set.",
        num_levels=16,
    )
    refused("labels must start at 0, got -1; renumber them.", labels=labels - 1)
    refused(
        "labels must count kinds from 0 on, got 100000 for 20 images; renumber them.",
        labels=np.where(labels == 0, 100_000, labels),
    )
    refused(
        "a classifier needs images of at least two kinds, got label 3 alone on all 20: "
        "its features would mean nothing; use those of Inception, --inception-weights "
        "FILE",
        labels=np.full_like(labels, 3),
    )
    with pytest.raises(ValueError, match=r"^epochs must be at least 1, got 0\.$"):
        train_classifier(images, labels, num_levels=17, epochs=0)
    message = (
        "images must have shape [n, 8, 8, 1] as those that the "
        f"{on_digits.name} was trained on, got [2, 7, 8, 1]."
    )
    with pytest.raises(ValueError, match=one_line(message)):
        on_digits(np.zeros([2, 7, 8, 1]))
    message = "labels must have shape [20], one per image, got [20, 1]."
    with pytest.raises(ValueError, match=one_line(message)):
        on_digits.accuracy(images / 16.0, labels[:, None])


def test_the_module_does_not_need_scipy():
    # It is a dependency of the tests only.
    for module in ("frechet", "features", "checks", "inception", "classifier"):
        file = sys.modules[f"aef_tfp.metrics.{module}"].__file__
        with open(file) as source:
            assert "scipy" not in source.read()
