"""Exported files against the models they were made of, in and out of this process."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2, saved_model_pb2
from test_models import small_model
from test_variational import vae

from aef_tfp import export as export_room
from aef_tfp import flows
from aef_tfp.export import saved_model as saved_model_room
from aef_tfp.models import (
    IWAE,
    VAE,
    Autoencoder,
    ExpandedAEF,
    PartitionedAEF,
    PixelMAF,
)
from aef_tfp.networks import MADE, MaskedDense
from aef_tfp.runs.commands import export as export_command
from aef_tfp.runs.config import RunConfig

ROOT = Path(__file__).parents[1]

SHAPE = (6, 4, 1)

# Endpoints beside those with `_levels`.
CODING = {"encode", "decode", "reconstruct", "interpolate"}
ENDPOINTS = {
    PartitionedAEF: CODING | {"sample", "log_prob"},
    ExpandedAEF: CODING | {"sample", "joint_log_prob", "marginal_log_prob"},
    VAE: CODING | {"sample", "elbo", "marginal_log_prob"},
    IWAE: CODING | {"sample", "elbo", "marginal_log_prob"},
    Autoencoder: CODING,
    PixelMAF: {"sample", "log_prob"},
}
KINDS = list(ENDPOINTS)


def model_of(cls, event_shape=SHAPE, dtype="float32", **arguments):
    """An adapted model with tiny networks, images of 17 levels."""
    if len(event_shape) == 3:
        arguments = {"num_levels": 17, **arguments}
    if cls in (PartitionedAEF, ExpandedAEF, VAE):
        core = "posterior_flow" if cls is VAE else "core_flow"
        arguments = {core: flow(dtype), "prior_flow": flow(dtype), **arguments}
    if cls in (VAE, IWAE):
        none = {"posterior_flow": "none", "prior_flow": "none"}
        model = vae(cls, event_shape, 3, dtype=dtype, **{**none, **arguments})
    elif cls is PixelMAF:
        arguments = {"num_layers": 1, "hidden_units": 30, **arguments}
        model = PixelMAF(event_shape, dtype=dtype, **arguments)
    elif cls is Autoencoder:
        networks = {"encoder": "dense", "decoder": "dense"}
        model = Autoencoder(event_shape, 3, dtype=dtype, **networks, **arguments)
    else:
        model = small_model(cls, event_shape, 3, dtype=dtype, **arguments)
    model.adapt(events(100, event_shape))
    return model


def flow(dtype):
    # One layer, and one network pass in both directions, to keep the graphs small.
    return flows.MAF(3, num_layers=1, hidden_units=8, dtype=dtype)


def events(num_events, event_shape=SHAPE, seed=0):
    rng = np.random.default_rng(seed)
    if len(event_shape) == 1:
        return rng.normal(size=(num_events, *event_shape)).astype("float32")
    return rng.integers(0, 17, size=(num_events, *event_shape)).astype("uint8")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """For each kind of model: the model, its file, and what the export returned."""
    directory = tmp_path_factory.mktemp("exported")
    result = {}
    for cls in KINDS:
        model = model_of(cls)
        if cls is ExpandedAEF:
            model.set_proposal_scale("encoder", 0.7)
        path = directory / cls.__name__ / "1"
        result[cls] = (model, path, model.export(path))
    return result


@pytest.fixture(scope="module")
def loaded(exported):
    return {
        cls: tf.saved_model.load(str(path)) for cls, (_, path, _) in exported.items()
    }


@pytest.mark.parametrize("cls", KINDS)
def test_a_kind_has_its_endpoints_by_their_true_names(cls, exported, loaded):
    plain = ENDPOINTS[cls]
    companions = {f"{name}_levels" for name in plain - {"decode", "sample"}}
    names = plain | companions
    assert set(exported[cls][2]) == names
    assert set(loaded[cls].signatures) == names | {"serving_default"}
    assert max(exported[cls][2].values()) < 1e-5
    default = loaded[cls].signatures["serving_default"]
    of = "reconstruct" if "reconstruct" in plain else "log_prob"
    assert list(default.structured_outputs) == list(
        loaded[cls].signatures[of].structured_outputs
    )


@pytest.mark.parametrize("cls", KINDS)
def test_a_file_asks_for_no_compiler(cls, exported):
    # Servers may have no XLA; the model's own graphs of sampling are compiled with it.
    path = exported[cls][1]
    file = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    functions = file.meta_graphs[0].graph_def.library.function
    assert functions
    assert not any(f.attr["_XlaMustCompile"].b for f in functions)


@pytest.mark.parametrize("num_events", [1, 7])
@pytest.mark.parametrize("cls", [cls for cls in KINDS if cls is not PixelMAF])
def test_coding_takes_integers_and_floats_and_any_batch(
    cls, num_events, exported, loaded
):
    model, file = exported[cls][0], loaded[cls]
    levels = events(num_events)
    floats = np.float32(levels / 17.0)
    for x in (levels, floats):
        np.testing.assert_allclose(
            file.encode(x)["latents"], model.encode(x), rtol=1e-4, atol=1e-4
        )
        np.testing.assert_allclose(
            file.reconstruct(images=x)["images"], model.reconstruct(x), atol=1e-4
        )
        np.testing.assert_allclose(
            file.interpolate(x, x[::-1], 3)["images"],
            model.interpolate(x, x[::-1], 3),
            atol=1e-4,
        )
    # The middle of a level is not its lower end.
    assert np.abs(file.encode(levels)["latents"] - model.encode(floats)).max() > 1e-3
    z = np.random.default_rng(1).normal(size=(num_events, 3)).astype("float32")
    np.testing.assert_allclose(file.decode(z)["images"], model.decode(z), atol=1e-5)


@pytest.mark.parametrize("cls", [PartitionedAEF, VAE, PixelMAF])
def test_a_seed_is_an_input(cls, exported, loaded):
    model, file = exported[cls][0], loaded[cls]
    first = file.sample(5, 0.85, 2**40 + 1)["images"]
    np.testing.assert_allclose(
        first, model.sample(5, 0.85, seed=2**40 + 1), rtol=1e-4, atol=1e-4
    )
    np.testing.assert_array_equal(first, file.sample(5, 0.85, 2**40 + 1)["images"])
    assert np.abs(first - file.sample(5, 0.85, 1)["images"]).max() > 1e-3
    cold = file.sample(num_samples=2, temperature=0.0, seed=1)["images"]
    np.testing.assert_array_equal(cold[0], cold[1])


@pytest.mark.parametrize("cls", [cls for cls in KINDS if cls is not Autoencoder])
def test_a_likelihood_is_the_models(cls, exported, loaded):
    model, file = exported[cls][0], loaded[cls]
    levels = events(6)
    noise = np.random.default_rng(7).uniform(size=levels.shape)
    floats = np.float32((levels + noise) / 17.0)
    name = next(n for n in ("log_prob", "joint_log_prob", "elbo") if hasattr(file, n))
    method, function = getattr(model, name), getattr(file, name)
    wanted = method(levels, seed=-3)
    np.testing.assert_allclose(function(levels, -3)[name], wanted, rtol=1e-4)
    assert np.abs(function(levels, 3)[name] - wanted).max() > 1e-3
    seed = [4] if name == "elbo" else []
    got = function(floats, *seed)[name]
    np.testing.assert_allclose(got, method(floats, seed=4), rtol=1e-4)
    if not hasattr(file, "marginal_log_prob"):
        return
    for x in (levels, floats):
        got = file.marginal_log_prob(x, num_samples=9, seed=5)["marginal_log_prob"]
        wanted = model.marginal_log_prob(x, 9, seed=5)
        np.testing.assert_allclose(got, wanted, rtol=1e-4)


def test_the_tuned_scale_goes_with_the_marginal(exported, loaded):
    model, file = exported[ExpandedAEF][0], loaded[ExpandedAEF]
    x = events(4)
    got = file.marginal_log_prob(x, 9, 5)["marginal_log_prob"]
    wanted = model.marginal_log_prob(x, 9, proposal_scale=0.7, seed=5)
    np.testing.assert_allclose(got, wanted, rtol=1e-4)
    other = model.marginal_log_prob(x, 9, proposal_scale=1.0, seed=5)
    assert np.abs(got - other).max() > 1e-2


BAD = [
    (PartitionedAEF, "encode", [np.full((2, *SHAPE), np.nan, "float32")], "finite"),
    (PartitionedAEF, "encode", [np.full((2, *SHAPE), 1.5, "float32")], r"\[0, 1\]"),
    (PixelMAF, "log_prob", [np.full((2, *SHAPE), -0.1, "float32")], r"\[0, 1\]"),
    (Autoencoder, "reconstruct", [np.full((2, *SHAPE), 17, "uint8")], r"0 \.\.\. 16"),
    (VAE, "elbo", [np.full((2, *SHAPE), 17, "uint8"), 0], r"0 \.\.\. 16"),
    (VAE, "marginal_log_prob", [events(2), 0, 0], r"at least 1, got\] \[0\]"),
    (VAE, "sample", [-2, 1.0, 0], r"num_samples must be at least 1, got\] \[-2\]"),
    (VAE, "sample", [2, np.float32(np.nan), 0], "temperature must be a finite"),
    (VAE, "sample", [2, np.float32(-1), 0], "temperature must be a finite"),
    (VAE, "decode", [np.full((2, 3), np.inf, "float32")], "latents must be finite"),
    (ExpandedAEF, "interpolate", [events(2), events(2), 1], "num_steps must be"),
    (
        ExpandedAEF,
        "interpolate",
        [events(2), events(3), 4],
        "equally many|must be equal",
    ),
]


@pytest.mark.parametrize(("cls", "name", "values", "message"), BAD)
def test_bad_values_get_an_error(cls, name, values, message, loaded):
    # A ValueError where the shapes of one call rule it out before it runs.
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError), match=message):
        getattr(loaded[cls], name)(*values)


@pytest.mark.parametrize("shape", [(2, 4, 6, 1), (2, 6, 4), (2, 6, 4, 3)])
def test_a_wrong_shape_gets_an_error(shape, loaded):
    signature = loaded[Autoencoder].signatures["encode"]
    message = r"Shape of .* is not compatible with expected shape \[\?,6,4,1\]"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        signature(images=tf.zeros(shape))
    with pytest.raises(ValueError, match="Could not find matching concrete function"):
        loaded[Autoencoder].encode(np.zeros(shape, "float32"))


def test_a_wrong_shape_gets_an_error_where_python_checks_none(exported):
    """As in a server, whose C++ code feeds what it is given."""
    path = str(exported[Autoencoder][1])
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        meta_graph = tf.compat.v1.saved_model.load(session, ["serve"], path)
        signature = meta_graph.signature_def["encode"]
        (given,), (returned,) = signature.inputs.values(), signature.outputs.values()
        # The public ways compare the shape in Python first.
        options = config_pb2.CallableOptions(feed=[given.name], fetch=[returned.name])
        run = session._make_callable_from_options(options)
        assert run(np.zeros((2, *SHAPE), "float32"))[0].shape == (2, 3)
        # As many entries as two events: a reshape alone would take them.
        with pytest.raises(tf.errors.InvalidArgumentError, match="hape"):
            run(np.zeros((2, 4, 6, 1), "float32"))


LOAD_ALL = """
import json, sys
import numpy as np
import tensorflow as tf

paths, inputs, answers = sys.argv[1:]
results = {}
values = {name: np.asarray(value) for name, value in json.load(open(inputs)).items()}
for name, path in json.loads(paths).items():
    for key, signature in tf.saved_model.load(path).signatures.items():
        specs = signature.structured_input_signature[1]
        (output,) = signature(
            **{
                spec: tf.constant(
                    values[f"{spec} {specs[spec].dtype.is_integer}"],
                    specs[spec].dtype,
                )
                for spec in specs
            }
        ).values()
        results[f"{name} {key}"] = output.numpy()
others = {"aef_tfp", "tensorflow_probability", "tf_keras"} & set(sys.modules)
assert not others, others
np.savez(answers, **results)
"""


def test_it_loads_in_a_process_with_tensorflow_alone(exported, tmp_path):
    levels = events(3)
    noise = np.random.default_rng(7).uniform(size=levels.shape)
    floats = (levels + noise) / 17
    z = np.random.default_rng(2).normal(size=(3, 3))
    arrays = {"images": (floats, levels), "start": (floats, levels)}
    arrays["end"] = (floats[::-1], levels[::-1])
    numbers = {"num_samples": 4, "num_steps": 3, "seed": 9}
    inputs = {
        "latents False": z.tolist(),
        "temperature False": 0.85,
        **{f"{name} True": value for name, value in numbers.items()},
        **{f"{name} False": pair[0].tolist() for name, pair in arrays.items()},
        **{f"{name} True": pair[1].tolist() for name, pair in arrays.items()},
    }
    (tmp_path / "inputs.json").write_text(json.dumps(inputs))
    # An IWAE has the endpoints of a VAE, an autoencoder some of them.
    kinds = [cls for cls in KINDS if cls not in (IWAE, Autoencoder)]
    paths = {cls.__name__: str(exported[cls][1]) for cls in kinds}
    command = [sys.executable, "-c", LOAD_ALL, json.dumps(paths)]
    subprocess.run(
        [*command, "inputs.json", "answers.npz"], cwd=tmp_path, check=True, timeout=300
    )
    answers = np.load(tmp_path / "answers.npz")
    z, floats = z.astype("float32"), floats.astype("float32")
    calls = {
        "encode": ("encode", [floats], {}),
        "encode_levels": ("encode", [levels], {}),
        "decode": ("decode", [z], {}),
        "interpolate_levels": ("interpolate", [levels, levels[::-1], 3], {}),
        "sample": ("sample", [4, 0.85, 9], {}),
        "log_prob": ("log_prob", [floats], {}),
        "joint_log_prob_levels": ("joint_log_prob", [levels], {"seed": 9}),
        "elbo": ("elbo", [floats], {"seed": 9}),
        "marginal_log_prob": ("marginal_log_prob", [floats, 4], {"seed": 9}),
    }
    for cls in kinds:
        model, _, differences = exported[cls]
        for name in differences:
            answer = answers[f"{cls.__name__} {name}"]
            assert np.isfinite(answer).all()
            if name in calls:
                method, values, named = calls[name]
                wanted = getattr(model, method)(*values, **named)
                np.testing.assert_allclose(answer, wanted, rtol=1e-3, atol=1e-4)


def test_masks_are_in_the_kernels_of_the_file_only(exported):
    model, path, _ = exported[PixelMAF]
    masked = [part for part in model._flatten_layers() if isinstance(part, MaskedDense)]
    assert len(masked) == 6
    reader = tf.train.load_checkpoint(str(path / "variables" / "variables"))
    stored = [
        reader.get_tensor(name)
        for name in reader.get_variable_to_shape_map()
        if name.startswith("weights/")
    ]
    for layer in masked:
        assert layer.trainable
        kernel = layer.kernel.numpy()
        # The last layers start at zero.
        assert (kernel[~layer.mask] != 0).any() or layer.name == "last"
        assert any(
            values.shape == kernel.shape and np.array_equal(values, layer.masked_kernel)
            for values in stored
        )


def test_a_folded_mask_changes_nothing_but_the_graph():
    made = MADE(5, hidden_units=12)
    x = tf.random.normal([3, 5])
    wanted = made(x)
    for layer in made._flatten_layers():
        if isinstance(layer, MaskedDense):
            layer.fold_mask()
    np.testing.assert_allclose(made(x), wanted, rtol=1e-6)
    assert not made.trainable_weights


@pytest.mark.parametrize("cls", [PartitionedAEF, VAE])
def test_weights_are_stored_once(cls, exported):
    model, path, _ = exported[cls]
    weights = sum(weight.numpy().nbytes for weight in model.weights)
    stored = (path / "variables" / "variables.data-00000-of-00001").stat().st_size
    # The checkpoint also lists its objects.
    assert stored < weights + 30_000


@pytest.mark.slow
def test_a_file_of_the_papers_size_is_little_larger_than_its_weights(tmp_path):
    # One layer of each flow, at the paper's width: the rest would be like it.
    core_flow, prior_flow = (flows.MAF(32, num_layers=1) for _ in range(2))
    model = PartitionedAEF((28, 28, 1), 32, core_flow=core_flow, prior_flow=prior_flow)
    model.adapt(np.random.default_rng(0).integers(0, 256, (64, 28, 28, 1), "uint8"))
    model.export(tmp_path / "1")
    size = sum(f.stat().st_size for f in tmp_path.rglob("*") if f.is_file())
    assert size < 1.2 * 4 * model.count_params()


def test_vectors_have_no_range(tmp_path):
    model = model_of(ExpandedAEF, (5,), core_flow="none", prior_flow="none")
    differences = model.export(tmp_path / "1")
    assert not any(name.endswith("_levels") for name in differences)
    file = tf.saved_model.load(str(tmp_path / "1"))
    x = 100 * events(3, (5,))
    np.testing.assert_allclose(
        file.encode(events=x)["latents"], model.encode(x), rtol=1e-4
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match="finite"):
        file.encode(np.full((2, 5), np.inf, "float32"))


def test_many_levels_are_wide_integers(tmp_path):
    levels = {"num_levels": 1000, "logit_lambda": 0.05}
    model = Autoencoder((5,), 3, encoder="dense", decoder="dense", **levels)
    model.adapt(np.arange(100, dtype="int32").reshape(20, 5) * 10)
    model.export(tmp_path / "1")
    file = tf.saved_model.load(str(tmp_path / "1"))
    x = np.array([[0, 300, 999, 5, 6]], "int32")
    np.testing.assert_allclose(file.encode(x)["latents"], model.encode(x), rtol=1e-4)
    for level in (-1, 1000):
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"0 \.\.\. 999"):
            file.encode(np.full((1, 5), level, "int32"))


def test_a_model_of_two_replicas(mirrored, tmp_path):
    with mirrored.scope():
        model = model_of(Autoencoder)
    model.export(tmp_path / "1")
    file = tf.saved_model.load(str(tmp_path / "1"))
    x = events(4)
    np.testing.assert_allclose(file.encode(x)["latents"], model.encode(x), rtol=1e-4)


class Doubled(keras.layers.Layer):
    """A layer of a user who did not register it."""

    def call(self, x):
        return 2.0 * x


class Halved(Doubled):
    """Takes an argument that no configuration holds."""

    def __init__(self, unused):
        super().__init__()


@pytest.mark.parametrize("layer", [Doubled(), Halved(object())])
def test_an_export_needs_a_model_that_can_be_rebuilt(layer, tmp_path):
    encoder = keras.Sequential([keras.layers.Flatten(), layer])
    model = Autoencoder((5,), 3, encoder=encoder, decoder="dense")
    model.adapt(events(20, (5,)))
    with pytest.raises(ValueError, match="register_keras_serializable") as error:
        model.export(tmp_path / "1")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_nothing_is_exported_untrained_or_overwritten(tmp_path):
    untrained = Autoencoder((5,), 3, encoder="dense", decoder="dense")
    with pytest.raises(ValueError, match="untrained"):
        untrained.export(tmp_path / "1")
    model = model_of(Autoencoder)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "file").write_text("kept")
    for format in ("tf_saved_model", "litert"):
        with pytest.raises(FileExistsError, match="nothing is overwritten"):
            model.export(mine, format=format)
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "file"]
    with pytest.raises(ValueError, match=r"'tf_saved_model' or 'litert', got 'onnx'"):
        model.export(tmp_path / "2", format="onnx")
    with pytest.raises(ValueError, match="takes no 'input_signature'"):
        model.export(tmp_path / "2", input_signature=[])


def test_a_file_that_differs_gets_no_name(tmp_path, monkeypatch):
    model = model_of(Autoencoder)
    right = saved_model_room.copy_for_inference

    def wrong(model):
        copy = right(model)
        copy.weights[-1].assign_add(0.1 * tf.ones_like(copy.weights[-1]))
        return copy

    monkeypatch.setattr(saved_model_room, "copy_for_inference", wrong)
    with pytest.raises(RuntimeError, match="differs from the model by"):
        model.export(tmp_path / "1")
    assert not list(tmp_path.iterdir())


def test_litert_files_are_the_model(exported, tmp_path):
    model = exported[ExpandedAEF][0]
    differences = model.export(tmp_path / "both", format="litert")
    assert sorted(differences) == ["decode", "encode"]
    assert max(differences.values()) < 1e-5
    files = sorted(path.name for path in (tmp_path / "both").iterdir())
    assert files == ["decode.tflite", "encode.tflite"]
    for file in (tmp_path / "both").iterdir():
        # Operations of TensorFlow that a plain LiteRT runtime does not have.
        assert b"Flex" not in file.read_bytes()
    partitioned = exported[PartitionedAEF][0]
    assert list(partitioned.export(tmp_path / "one", format="litert")) == ["encode"]
    with pytest.raises(ValueError, match="no encoder"):
        exported[PixelMAF][0].export(tmp_path / "none", format="litert")
    for dtype in ("float64", "mixed_bfloat16"):
        half = model_of(Autoencoder, dtype=dtype)
        with pytest.raises(ValueError, match="hold float32"):
            half.export(tmp_path / "x", format="litert")


def test_a_path_may_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    model = model_of(Autoencoder)
    for format in ("tf_saved_model", "litert"):
        (tmp_path / format).mkdir()
        with pytest.raises(FileExistsError, match="exists"):
            model.export(f"~/{format}", format=format)


def test_the_command_exports_the_best_checkpoint(tmp_path, capsys, monkeypatch):
    model = model_of(Autoencoder)
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(RunConfig().to_json())
    model.save(run / "best.keras")
    out = tmp_path / "out" / "1"
    assert export_command.main([str(run), str(out)]) == 0
    printed = capsys.readouterr().out
    assert "encode(images: float32[batch, 6, 4, 1]) -> latents" in printed
    assert "interpolate_levels(start: uint8[batch, 6, 4, 1], end" in printed
    assert "the weights alone:" in printed
    file = tf.saved_model.load(str(out))
    np.testing.assert_allclose(
        file.encode(events(2))["latents"], model.encode(events(2)), rtol=1e-4
    )
    assert export_command.main([str(run), str(out)]) == 1
    assert "nothing is overwritten" in capsys.readouterr().err
    assert export_command.main([str(tmp_path / "no"), str(tmp_path / "x")]) == 1
    assert "holds no run" in capsys.readouterr().err
    asked = []

    def export_litert(model, path):
        asked.append((type(model), path))
        return {"encode": 0.0}

    monkeypatch.setattr(export_room, "export_litert", export_litert)
    lite = tmp_path / "lite"
    assert export_command.main([str(run), str(lite), "--format", "litert"]) == 0
    assert asked == [(Autoencoder, lite)]
    printed = capsys.readouterr().out
    assert "encode.tflite" in printed
    assert "No decode.tflite: LiteRT has no form" in printed
