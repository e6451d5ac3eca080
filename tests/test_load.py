"""`aef_tfp.load`: the model of a run directory or a file, or a line why not."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import aef_tfp
from aef_tfp import PartitionedAEF, flows
from aef_tfp.data import dataset_info
from aef_tfp.runs.building import build_model
from aef_tfp.runs.config import RunConfig
from aef_tfp.saved import save_best

ROOT = Path(__file__).parents[1]


class Halved(keras.layers.Layer):
    """A layer of the user's own, which nothing registers."""

    def call(self, inputs):
        return 0.5 * inputs


def halved_sum(inputs):
    return inputs - 0.5


def tiny(layer=None, activation=None):
    encoder = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(3)])
    if layer is not None:
        encoder.add(layer)
    if activation is not None:
        encoder.add(keras.layers.Dense(3, activation))
    return PartitionedAEF(
        (4, 4, 1),
        latent_dim=2,
        num_levels=17,
        encoder=encoder,
        core_flow=flows.MAF(2, num_layers=1, hidden_units=8, num_blocks=1),
        prior_flow=flows.Identity(),
    )


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 17, (8, 4, 4, 1)).astype(np.uint8)


@pytest.fixture(scope="module")
def file(images, tmp_path_factory):
    """A model that was trained for a step, and its density."""
    model = tiny()
    model.compile("adam")
    model.fit(images, batch_size=8, verbose=0)
    path = tmp_path_factory.mktemp("files") / "tiny.keras"
    model.save(path)
    return path, model.log_prob(images, seed=0)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_file_gives_the_same_model(file, images, kind):
    path, log_prob = file
    model = aef_tfp.load(kind(path))
    np.testing.assert_array_equal(model.log_prob(images, seed=0), log_prob)
    assert int(model.optimizer.iterations.numpy()) == 1


# Each is a process of its own, in which nothing is registered yet.
FRESH = """
import sys, keras, numpy as np, aef_tfp
images = np.random.default_rng(0).integers(0, 17, (8, 4, 4, 1)).astype(np.uint8)
model = aef_tfp.load(sys.argv[1])
print(type(model).__name__, model.log_prob(images, seed=0).numpy().tolist())
flow = aef_tfp.load(sys.argv[2])
print(type(flow.layers[-1]).__name__)
try:
    aef_tfp.load(sys.argv[3])
except ValueError as error:
    print(error)
"""


def test_a_fresh_process_needs_no_other_import(file, tmp_path):
    path, log_prob = file
    inputs = keras.Input((4,))
    outputs = aef_tfp.networks.EqualizedDense(2)(inputs)
    keras.Model(inputs, outputs).save(tmp_path / "network.keras")
    keras.Sequential([keras.Input((3,)), Halved()]).save(tmp_path / "own.keras")
    names = [path, tmp_path / "network.keras", tmp_path / "own.keras"]
    command = [sys.executable, "-c", FRESH, *map(str, names)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, second, third = done.stdout.splitlines()
    name, _, values = first.partition(" ")
    assert name == "PartitionedAEF"
    np.testing.assert_allclose(json.loads(values), log_prob, rtol=1e-5)
    assert second == "EqualizedDense"
    assert f"{names[2]} needs your class Halved, which is not registered" in third


def test_importing_the_package_starts_no_tensorflow():
    code = "import sys, aef_tfp; assert 'load' in aef_tfp.__all__\n"
    code += "assert 'tensorflow' not in sys.modules and 'keras' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


# Runs.


CONFIG = RunConfig(networks="dense", latent_dim=2, flow_layers=1, flow_units=8)


@pytest.fixture(scope="module")
def best():
    return build_model(CONFIG, dataset_info("digits"))


def test_a_run_gives_its_best_model(best, tmp_path):
    (tmp_path / "config.json").write_text(CONFIG.to_json())
    with pytest.raises(FileNotFoundError, match="go on with aef-tfp train --resume "):
        aef_tfp.load(tmp_path)
    label = {"iteration": 7, "settings": CONFIG.of_weights()}
    save_best(best, tmp_path / "best.keras", label)
    model = aef_tfp.load(str(tmp_path))
    for ours, theirs in zip(model.get_weights(), best.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    # The file alone does as well.
    assert type(aef_tfp.load(tmp_path / "best.keras")) is type(best)


def test_a_training_of_ones_own_needs_no_settings(best, tmp_path):
    save_best(best, tmp_path / "best.keras", {"iteration": 7})
    assert type(aef_tfp.load(tmp_path)) is type(best)


# What is said of the rest.


def refused(path, error=ValueError, **options):
    with pytest.raises(error) as raised:
        aef_tfp.load(path, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_class_of_ones_own_is_named_or_passed(images, tmp_path):
    path = tmp_path / "own.keras"
    model = tiny(Halved())
    model.adapt(images)
    model.save(path)
    line = refused(path)
    assert line == (
        f"{path} needs your class Halved, which is not registered: import the module "
        "that decorates it with keras.saving.register_keras_serializable(), or pass "
        "custom_objects={'Halved': Halved} to aef_tfp.load."
    )
    same = aef_tfp.load(path, custom_objects={"Halved": Halved})
    np.testing.assert_array_equal(
        same.log_prob(images, seed=0), model.log_prob(images, seed=0)
    )
    # Only for that call.
    assert refused(path) == line


def test_a_function_of_ones_own_is_named(tmp_path):
    path = tmp_path / "own.keras"
    tiny(activation=halved_sum).save(path)
    assert "needs your function halved_sum, which is not regist" in refused(path)
    aef_tfp.load(path, custom_objects={"halved_sum": halved_sum})


def test_a_class_of_another_version_is_no_class_of_the_user(file, tmp_path):
    path = tmp_path / "later.keras"
    with zipfile.ZipFile(file[0]) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "config.json":
                assert b"PartitionedAEF" in data
                data = data.replace(b"PartitionedAEF", b"PartedAEF")
            new.writestr(name, data)
    line = refused(path)
    assert "needs the class PartedAEF of another version of aef_tfp: install" in line


def test_code_in_a_file_is_not_run(tmp_path):
    path = tmp_path / "lambda.keras"
    layer = keras.layers.Lambda(lambda x: 2 * x, output_shape=(3,))
    keras.Sequential([keras.Input((3,)), layer]).save(path)
    assert f"{path} holds a lambda, which is code from a file" in refused(path)


def test_what_is_not_there_is_missed(tmp_path):
    line = refused(tmp_path / "no.keras", FileNotFoundError)
    assert line == (
        f"{tmp_path / 'no.keras'} is not there; name a run directory or a .keras file."
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.h5", "is an HDF5 file, the former format of Keras"),
        ("model.weights.h5", "is a file of weights without their model; build that"),
        ("encode.tflite", "is a LiteRT file, which holds an endpoint"),
        ("config.json", "is no .keras file"),
        ("model", "is no .keras file"),
    ],
)
def test_another_kind_of_file_is_named(name, message, tmp_path):
    (tmp_path / name).write_bytes(b"data")
    line = refused(tmp_path / name)
    assert message in line
    assert line.endswith("; name a run directory or a .keras file.")


def test_a_directory_that_is_no_run_is_named(tmp_path):
    assert "holds no run: it has neither config.json nor best." in refused(tmp_path)
    tf.saved_model.save(tf.Module(), tmp_path / "served")
    line = refused(tmp_path / "served")
    assert "is a SavedModel: it holds endpoints, not the model" in line


def test_a_damaged_file_is_named(file, tmp_path):
    whole = file[0].read_bytes()
    for data in (b"", b"junk", whole[:-1000], whole[:5000] + b"?" + whole[5001:]):
        path = tmp_path / "cut.keras"
        path.write_bytes(data)
        line = refused(path)
        assert line.startswith(f"{path} is no whole model file: ")
        # Only a run can write another one.
        assert line.endswith(". Put back a copy of it.")
