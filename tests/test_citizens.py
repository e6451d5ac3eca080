"""What Keras and TFP expect of layers, models and bijectors of others."""

import collections
import functools
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src import testing
from tensorflow_probability import bijectors as tfb

from aef_tfp import flows, networks
from aef_tfp.models import (
    IWAE,
    VAE,
    Autoencoder,
    ExpandedAEF,
    PartitionedAEF,
    PixelMAF,
)
from aef_tfp.networks.residual import ChannelAffine, GaussianSplit

MODELS = {
    "partitioned": lambda: PartitionedAEF((8, 8, 1), 3),
    "expanded": lambda: ExpandedAEF((8, 8, 1), 3, decoder_scale="dependent"),
    "expanded_vector": lambda: ExpandedAEF((5,), 3, core_flow="iaf", prior_flow="none"),
    "vae": lambda: VAE((8, 8, 1), 3),
    "iwae": lambda: IWAE((5,), 3, posterior_flow="maf"),
    "pixel_maf": lambda: PixelMAF((4, 4, 1), num_layers=2, hidden_units=8),
    "autoencoder": lambda: Autoencoder((8, 8, 1), 3),
    "residual": lambda: ExpandedAEF(
        (4, 4, 1),
        4,
        encoder="residual",
        decoder="residual",
        core_flow="none",
        prior_flow="none",
    ),
    "own": lambda: own_model(),
}


@keras.saving.register_keras_serializable(package="tests")
class Shift(flows.Flow):
    """A flow of a user."""

    def __init__(self, event_size, **kwargs):
        super().__init__(**kwargs)
        self.event_size = event_size
        self.shift = self.add_weight(name="shift", shape=(event_size,))
        self.built = True

    @property
    def bijector(self):
        return tfb.Shift(self.shift.value)

    def get_config(self):
        return {**super().get_config(), "event_size": self.event_size}


def small_maf(size, **options):
    return flows.MAF(size, num_layers=2, hidden_units=8, **options)


def own_model():
    """Networks whose layers have equal names, and flows of a user."""
    layers = keras.layers

    def network(inputs, outputs):
        x = keras.Input(inputs)
        hidden = layers.Dense(6, "relu", name="hidden")(layers.Flatten()(x))
        y = layers.Dense(int(np.prod(outputs)), name="last")(hidden)
        return keras.Model(x, layers.Reshape(outputs)(y))

    inner = keras.Sequential([layers.Flatten(), layers.Dense(2, name="hidden")])
    two_outputs = keras.Input((4, 3, 1))
    features = network((4, 3, 1), (6,))(two_outputs)
    heads = [
        layers.Dense(2, activation, name=name)(features)
        for name, activation in (("loc", None), ("scale", "softplus"))
    ]
    return ExpandedAEF(
        (4, 3, 1),
        2,
        encoder=keras.Model(two_outputs, heads, name="encoder"),
        decoder=network((2,), (4, 3, 1)),
        expansion=inner,
        core_flow=small_maf(2),
        prior_flow=flows.Stack([small_maf(2), Shift(2), Shift(2)]),
    )


@pytest.fixture(scope="module")
def model_of():
    """Makes each kind of model once."""
    return functools.cache(lambda kind: MODELS[kind]())


def paths(model):
    return [weight.path for weight in model.weights]


@pytest.fixture
def _wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "220")


def summary(model, **options):
    lines = []
    model.summary(print_fn=lines.append, line_length=200, **options)
    rows = [line.split("│") for line in "\n".join(lines).splitlines()]
    return {row[1].strip(): row[2].strip() for row in rows if len(row) == 5}


@pytest.mark.parametrize("kind", MODELS)
def test_each_weight_has_a_path_of_its_own_which_a_file_keeps(kind, model_of, tmp_path):
    model = model_of(kind)
    repeated = [p for p, n in collections.Counter(paths(model)).items() if n > 1]
    assert repeated == []
    model.compile(keras.optimizers.Adam(1e-3))
    names = [variable.path for variable in model.optimizer.variables]
    assert len(set(names)) == len(names)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert paths(loaded) == paths(model)
    assert [variable.path for variable in loaded.optimizer.variables] == names


@pytest.mark.parametrize("kind", ["own", "pixel_maf"])
def test_checkpoints_of_tensorflow_have_every_weight(kind, model_of, tmp_path, rng):
    model, other = model_of(kind), MODELS[kind]()
    for flow in (model, flows.Stack([small_maf(2), Shift(2)])):
        saved = tf.train.Checkpoint(of=flow).save(tmp_path / "checkpoint")
        names = [name for name, _ in tf.train.list_variables(saved)]
        found = [name for name in names if re.match("of/(?!optimizer/)", name)]
        assert len(found) == len(flow.weights)
    model.set_weights([value + 1 for value in model.get_weights()])
    saved = tf.train.Checkpoint(of=model).save(tmp_path / "checkpoint")
    status = tf.train.Checkpoint(of=other).restore(saved)
    # The optimizer of the one may be there, too.
    status.assert_existing_objects_matched().expect_partial()
    for got, value in zip(other.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(got, value)


def test_a_path_says_where_a_weight_sits(model_of):
    for model, expected in (
        (
            model_of("vae"),
            [
                "preprocessing/act_norm/shift",
                "prior_flow/autoregressive_0/made/block_0_first/kernel",
                "posterior_flow/act_norm_3/shift",
                "encoder/scale_head/bias",
                "encoder/conv_encoder/conv2d/kernel",
                "decoder/raw_scale",
            ],
        ),
        (
            model_of("own"),
            [
                "encoder/loc/kernel",
                "expansion/hidden/kernel",
                "core_flow/autoregressive_1/made/first/kernel",
            ],
        ),
    ):
        # Keras counts the layers of a process.
        found = [re.sub(r"conv2d_\d+/", "conv2d/", path) for path in paths(model)]
        assert set(expected) <= set(found)


def test_paths_of_flows_differ_without_a_model():
    one, two, iaf, other_iaf = (
        make(3, num_layers=2, hidden_units=4)
        for make in (flows.MAF, flows.MAF, flows.IAF, flows.IAF)
    )
    shifts = flows.Stack([Shift(3), Shift(3)])
    found = [
        path for flow in (one, two, iaf, other_iaf, shifts) for path in paths(flow)
    ]
    assert len(set(found)) == len(found)
    assert f"{one.name}/autoregressive_1/made/last/bias" in found
    copy = flows.Inverted.from_config(iaf.get_config())
    assert paths(copy) == paths(iaf)


def test_the_optimizer_goes_on_after_loading(tmp_path, rng):
    model = Autoencoder((5,), 2, encoder="dense", decoder="dense")
    model.compile(keras.optimizers.SGD(1e-2, momentum=0.9))
    model.fit(rng.uniform(size=(8, 5)), batch_size=4, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    momenta = zip(model.optimizer.variables, loaded.optimizer.variables, strict=True)
    for one, other in momenta:
        assert one.path == other.path
        np.testing.assert_array_equal(one, other)
    assert np.any(loaded.optimizer.variables[-1])


SUMMARIES = {
    "partitioned": {
        "preprocessing (Stack)": "(None, 8, 8, 1)",
        "encoder (GaussianEncoder)": "((None, 3), (None, 3))",
        "decoder (GaussianDecoder)": "((None, 8, 8, 1), (None, 8, 8, 1))",
        "prior_flow (MAF)": "(None, 3)",
        "core_flow (MAF)": "(None, 3)",
    },
    "expanded_vector": {
        "preprocessing (Stack)": "(None, 5)",
        "encoder (GaussianEncoder)": "((None, 3), (None, 3))",
        "decoder (GaussianDecoder)": "((None, 5), (None, 5))",
        "prior_flow (Identity)": "(None, 3)",
        "core_flow (Inverted)": "(None, 3)",
        "expansion (Sequential)": "(None, 3)",
    },
    "vae": {
        "preprocessing (Stack)": "(None, 8, 8, 1)",
        "encoder (GaussianEncoder)": "((None, 3), (None, 3))",
        "decoder (GaussianDecoder)": "((None, 8, 8, 1), (None, 8, 8, 1))",
        "prior_flow (MAF)": "(None, 3)",
        "posterior_flow (Inverted)": "(None, 3)",
    },
    "pixel_maf": {
        "preprocessing (Stack)": "(None, 4, 4, 1)",
        "flow (MAF)": "(None, 16)",
    },
    "autoencoder": {
        "preprocessing (Stack)": "(None, 8, 8, 1)",
        "encoder (PointEncoder)": "(None, 3)",
        "decoder (GaussianDecoder)": "((None, 8, 8, 1), (None, 8, 8, 1))",
    },
}


@pytest.mark.usefixtures("_wide_terminal")
@pytest.mark.parametrize("kind", MODELS)
def test_a_summary_shows_shapes_and_names(kind, model_of):
    model = model_of(kind)
    shown = summary(model)
    if kind in SUMMARIES:
        assert shown == SUMMARIES[kind]
    nested = summary(model, expand_nested=True)
    for shapes in (shown, nested):
        assert [name for name, shape in shapes.items() if "?" in shape] == []
    assert len(nested) > len(shown)


@pytest.mark.usefixtures("_wide_terminal")
def test_a_summary_shows_what_networks_and_flows_are_made_of(model_of):
    nested = summary(model_of("vae"), expand_nested=True)
    assert nested["└ act_norm (ActNorm)"] == "(None, 8, 8, 1)"
    assert nested["└ loc_head (EqualizedDense)"] == "(None, 3)"
    assert nested["└ conv_encoder (Sequential)"] == "(None, 512)"
    assert nested["└ autoregressive_3 (Autoregressive)"] == "(None, 3)"
    # Elsewhere the parts have one name only, that of the attribute.
    assert not hasattr(flows.MAF(3), "layers")


@pytest.mark.parametrize("kind", [k for k in MODELS if k != "autoencoder"])
def test_bijectors_of_models_are_printed(kind, model_of):
    model = model_of(kind)
    bijectors = [
        getattr(model, name).bijector
        for name in ("distribution", "pair_distribution", "latent_distribution")
        if hasattr(model, name)
    ]
    bijectors += [
        layer.bijector for layer in model.layers if hasattr(layer, "bijector")
    ]
    if kind != "pixel_maf":
        bijectors += [model.chain.bijector, *model.chain.parts().values()]
    for bijector in bijectors:
        assert "tfp.bijectors." in str(bijector)
        assert "tfp.bijectors." in repr(bijector)


@pytest.mark.parametrize("make", [flows.MAF, flows.IAF])
def test_a_flow_gives_its_name_and_dtype_to_its_layers(make):
    flow = make(3, num_layers=2, hidden_units=4, dtype="float64", name="mine")
    assert flow.name == "mine"
    assert {layer.dtype_policy.name for layer in flow._flatten_layers()} == {"float64"}
    assert all(path.startswith("mine/") for path in paths(flow))
    assert flow.bijector.forward(tf.zeros((1, 3), tf.float64)).dtype == tf.float64


@pytest.mark.parametrize("identifier", ["maf", "iaf", "none"])
def test_named_flows_take_name_and_dtype(identifier):
    flow = flows.get(identifier, 3, dtype="float64", name="core_flow")
    assert flow.name == "core_flow"
    assert {layer.dtype_policy.name for layer in flow._flatten_layers()} == {"float64"}


def vector_network(*outputs):
    inputs = keras.Input((3,))
    return keras.Model(inputs, [keras.layers.Dense(n)(inputs) for n in outputs])


SMALL_MAF = {"event_size": 3, "num_layers": 2, "hidden_units": 4, "num_blocks": 1}
MASK = [[1, 0], [1, 1], [0, 1]]

# (class, constructor's arguments, shape of inputs, shape of outputs, number of weights)
LAYERS = [
    (flows.ActNorm, {"size": 3}, (2, 4, 4, 3), (2, 4, 4, 3), 2),
    (flows.MAF, SMALL_MAF, (2, 3), (2, 3), 20),
    (
        flows.Autoregressive,
        {"event_size": 3, "hidden_units": 4, "num_blocks": 0},
        (2, 3),
        (2, 3),
        4,
    ),
    (flows.Stack, {"flows": [flows.ActNorm(3), flows.ActNorm(3)]}, (2, 3), (2, 3), 4),
    (flows.Inverted, {"flow": flows.MAF(**SMALL_MAF)}, (2, 3), (2, 3), 20),
    (flows.Identity, {}, (2, 3), (2, 3), 0),
    (flows.PixelSquash, {"logit_lambda": 0.01}, (2, 3, 3, 1), (2, 3, 3, 1), 0),
    (flows.Reverse, {"event_size": 3}, (2, 3), (2, 3), 0),
    (Shift, {"event_size": 3}, (2, 3), (2, 3), 1),
    (
        networks.MADE,
        {"event_size": 3, "hidden_units": 4, "initial_parameters": [0.0, 1.0]},
        (2, 3),
        (2, 3, 2),
        12,
    ),
    (networks.MaskedDense, {"mask": MASK}, (2, 3), (2, 2), 2),
    (networks.EqualizedDense, {"units": 4, "activation": "relu"}, (2, 3), (2, 4), 2),
    (
        networks.AffineSequential,
        {"layers": [keras.layers.Dense(4)]},
        (2, 3),
        (2, 4),
        2,
    ),
    (
        networks.Conv2D,
        {"filters": 2, "kernel_size": 3, "strides": 2, "padding": "same"},
        (2, 4, 4, 1),
        (2, 2, 2, 2),
        2,
    ),
    (
        networks.Conv2DTranspose,
        {"filters": 16, "kernel_size": 4, "strides": 2, "padding": "same"},
        (2, 4, 4, 1),
        (2, 8, 8, 16),
        2,
    ),
    (
        networks.BottleneckBlock,
        {"channels": 2, "bottleneck": 1},
        (2, 4, 4, 2),
        (2, 4, 4, 2),
        8,
    ),
    (ChannelAffine, {}, (2, 4, 4, 3), (2, 4, 4, 3), 2),
    (GaussianSplit, {}, (2, 6), ((2, 3), (2, 3)), 0),
    (
        networks.GaussianEncoder,
        {"network": vector_network(4), "event_shape": [3], "latent_dim": 2},
        (2, 3),
        ((2, 2), (2, 2)),
        6,
    ),
    (
        networks.PointEncoder,
        {"network": vector_network(4), "event_shape": [3], "latent_dim": 2},
        (2, 3),
        (2, 2),
        4,
    ),
    (
        networks.GaussianDecoder,
        {"network": vector_network(4), "latent_dim": 3, "event_shape": [4]},
        (2, 3),
        ((2, 4), (2, 4)),
        3,
    ),
    (
        networks.GaussianDecoder,
        {
            "network": vector_network(4),
            "latent_dim": 3,
            "event_shape": [2],
            "scale": "dependent",
        },
        (2, 3),
        ((2, 2), (2, 2)),
        2,
    ),
]


@pytest.mark.parametrize("case", LAYERS, ids=lambda case: case[0].__name__)
def test_layers_pass_the_test_of_keras(case):
    cls, arguments, input_shape, output_shape, num_weights = case
    testing.TestCase().run_layer_test(
        cls,
        init_kwargs=arguments,
        input_shape=input_shape,
        expected_output_shape=output_shape,
        expected_num_trainable_weights=num_weights,
        expected_num_non_trainable_weights=0,
        expected_num_seed_generators=0,
        expected_num_losses=0,
        # There is nothing to train without weights, and Keras says so.
        run_training_check=num_weights > 0,
        # A Keras model of other layers takes no dtype; they have their own.
        run_mixed_precision_check=cls is not networks.AffineSequential,
    )


def test_every_layer_is_in_the_table():
    classes = {
        value
        for room in (flows, networks)
        for value in vars(room).values()
        if isinstance(value, type) and issubclass(value, keras.layers.Layer)
    }
    assert classes - {flows.Flow} <= {case[0] for case in LAYERS}


@pytest.mark.parametrize("cls", [flows.MAF, flows.ActNorm, networks.MADE])
def test_densities_stay_in_single_precision_under_a_mixed_policy(cls):
    arguments = next(case[1] for case in LAYERS if case[0] is cls)
    layer = cls(**arguments, dtype="mixed_bfloat16")
    x = tf.random.normal((4, 3))
    assert layer(tf.cast(x, tf.bfloat16)).dtype == tf.float32
    assert layer(keras.Input((3,), dtype="bfloat16")).dtype == "float32"
    assert {weight.dtype for weight in layer.weights} == {"float32"}
    same = cls.from_config(layer.get_config())
    assert same.dtype_policy == layer.dtype_policy
    if cls is not networks.MADE:
        log_det = layer.bijector.inverse_log_det_jacobian(x, 1)
        assert log_det.dtype == tf.float32
