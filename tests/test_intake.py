"""What comes in as data: all kinds of Keras, in the right units or refused."""

import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_models import small_model
from test_training_engine import FLOATS, largest_difference, plain, tiny, weights

from aef_tfp import backend
from aef_tfp.callbacks import Checkpoints
from aef_tfp.data.storage import default_cache_dir
from aef_tfp.models import Autoencoder, ExpandedAEF, PartitionedAEF
from aef_tfp.runs.best import load_best

INTEGERS = np.random.default_rng(0).integers(0, 17, FLOATS.shape).astype("uint8")
DIVIDED = (INTEGERS / 16).astype("float32")
SIZE = 32


def batches(x):
    return tf.data.Dataset.from_tensor_slices(x).batch(SIZE)


def generator(x):
    for start in range(0, len(x), SIZE):
        yield x[start : start + SIZE]


class Batches(keras.utils.PyDataset):
    def __init__(self, x):
        super().__init__()
        self.x = x

    def __len__(self):
        return len(self.x) // SIZE

    def __getitem__(self, index):
        return self.x[index * SIZE : (index + 1) * SIZE]


class Labelled(Batches):
    def __getitem__(self, index):
        return super().__getitem__(index), np.zeros(SIZE)


class Failing(Batches):
    def __getitem__(self, index):
        raise ValueError("photo_17.jpg is cut; fetch it again")


class ArrayLike:
    """As pandas and other libraries give arrays."""

    def __init__(self, x):
        self.x = x

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.x, dtype)


# Keras warns at the end of each collection whose length it does not know.
pytestmark = pytest.mark.filterwarnings("ignore:Your input ran out of data")

KINDS = {"array": np.asarray, "set": batches, "generator": generator, "py": Batches}


@pytest.fixture(scope="module")
def trained():
    """One model for all that is refused or only looked at."""
    model = tiny(ExpandedAEF, has_flows=False)
    model.fit(INTEGERS, verbose=0)
    return model


@pytest.fixture(scope="module")
def refused(trained):
    """Calls a method; returns the error's one line, after which nothing has changed."""

    def call(function, *args, **kwargs):
        before = weights(trained)
        with pytest.raises((ValueError, TypeError)) as error:
            function(*args, **kwargs)
        assert "\n" not in str(error.value)
        assert largest_difference(before, weights(trained)) == 0.0
        return str(error.value)

    return call


@pytest.mark.parametrize("kind", KINDS)
def test_floats_that_stand_for_integers_are_refused_by_all_ways_in(
    kind, trained, refused
):
    data = KINDS[kind]
    for method in (trained.fit, trained.evaluate):
        assert "disguise, k / 16, whose" in refused(method, data(DIVIDED), verbose=0)
    assert "disguise" in refused(trained.adapt, data(DIVIDED))
    assert "disguise" in refused(
        tiny(ExpandedAEF, has_flows=False).fit, data(DIVIDED), verbose=0
    )
    # Nothing asks for their density here.
    assert trained.predict(data(DIVIDED), verbose=0).shape == DIVIDED.shape


@pytest.mark.parametrize("kind", KINDS)
def test_validation_data_in_other_units_stop_the_training(kind, trained):
    with pytest.raises(ValueError, match="disguise"):
        trained.fit(INTEGERS, validation_data=KINDS[kind](DIVIDED), verbose=0)


@pytest.mark.parametrize("kind", KINDS)
def test_floats_out_of_range_are_an_error_and_not_nan(kind, trained, refused):
    data = KINDS[kind]
    images = FLOATS.copy()
    images[40, 1, 1] = 1.25
    message = "must lie in [0, 1], got values from "
    for method in (trained.evaluate, trained.predict):
        said = refused(method, data(images), verbose=0)
        assert message in said
        assert " to 1.25; " in said
        assert "finite, got 1 NaN" in refused(
            method, data(np.where(images == 1.25, np.nan, FLOATS)), verbose=0
        )
    assert message in refused(trained, images)
    assert message in refused(trained.predict_on_batch, images)
    assert message in refused(trained.test_on_batch, images)


def test_two_replicas_refuse_as_one_does(mirrored):
    with mirrored.scope():
        model = tiny(has_flows=False)
    model.adapt(INTEGERS)
    images = FLOATS.copy()
    images[9] = -0.5  # of the second replica
    for method in (model.fit, model.evaluate, model.predict):
        with pytest.raises(ValueError, match=r"got values from -0\.5"):
            method(batches(images), verbose=0)
    with pytest.raises(ValueError, match="disguise"):
        model.fit(batches(DIVIDED), verbose=0)
    assert int(model.optimizer.iterations.numpy()) == 0


@pytest.mark.parametrize(
    ("x", "advice"),
    [
        (255.0 * DIVIDED, "measurements of any range need num_levels=None"),
        (np.rint(16 * DIVIDED), r"pass integers, images.astype\('uint8'\)"),
        (np.rint(16 * DIVIDED), r"of a data set dataset.map\(lambda x: tf.cast\(tf.r"),
        (
            15.5 * DIVIDED,
            r"resized .*map\(lambda x: tf.cast\(tf.round\(x\), 'uint8'\)\)",
        ),
        (np.rint(255 * DIVIDED), "build the model with num_levels=256"),
        (2 * DIVIDED - 1, r"scaled to \[-1, 1\], pass the integers from before"),
        (300 * FLOATS, "measurements of any range need num_levels=None, logit_lambda"),
        (np.float16(DIVIDED), "float16, which has few values"),
    ],
)
def test_advice_fits_the_values(x, advice, trained):
    with pytest.raises(ValueError, match=advice):
        trained.joint_log_prob(x)


def test_the_advice_for_measurements_works():
    x = np.random.default_rng(0).uniform(0, 300, (32, 6)).astype("float32")
    model = PartitionedAEF((6,), 2, num_levels=None, logit_lambda=None)
    assert np.isfinite(model.log_prob(x)).all()


@pytest.mark.parametrize("levels", [17.0, True, "17", 1, -3, np.nan])
def test_num_levels_is_an_integer(levels):
    with pytest.raises(ValueError, match="num_levels must be an integer of at least 2"):
        ExpandedAEF((4, 4, 1), 2, num_levels=levels)


def test_models_without_a_density_take_any_floats():
    model = Autoencoder((4, 4, 1), 2, encoder="dense", decoder="dense", num_levels=17)
    model.compile(jit_compile=False)
    model.fit(DIVIDED, verbose=0)


# Density without a bound that may be meant: a warning.


def test_a_column_without_a_bound_is_named(recwarn):
    x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
    x[:, 3] = 2.0
    model = PartitionedAEF((5,), 2, encoder="dense", decoder="dense")
    model.compile(jit_compile=False, run_eagerly=True)
    with pytest.warns(UserWarning, match="fit: column 3 is constant, so its density"):
        model.fit(batches(x).take(1), verbose=0)


def test_exact_zeros_and_ones_are_warned_of(trained):
    x = np.clip(1.5 * FLOATS, 0.0, 1.0)
    with pytest.warns(UserWarning, match="fit: .*% of the values are exactly 0 or 1"):
        trained.fit(x, verbose=0)


def test_noisy_images_have_no_values_at_the_bounds():
    """Clipped values of a noisy image are dequantized within the outermost level."""
    rng = np.random.default_rng(0)
    levels = np.repeat(rng.integers(0, 17, (400, 4, 4, 1)), 5, axis=0).astype("uint8")
    model = ExpandedAEF((4, 4, 1), 2, num_levels=17, noise_std=0.5)
    noisy = model.corrupt(levels, seed=1).numpy()
    assert np.all((noisy > 0.0) & (noisy < 1.0))
    # As many as the paper's clipping puts on 0, evenly over the lowest level.
    clean = (levels + 0.5) / 17
    below = noisy < 1 / 17
    standard = tf.math.erfc((clean - 1 / 17) / 0.5 / np.sqrt(2)).numpy() / 2
    assert below.mean() == pytest.approx(standard.mean(), abs=0.01)
    assert 17 * noisy[below].mean() == pytest.approx(0.5, abs=0.01)
    assert 17 * (1 - noisy[noisy > 16 / 17]).mean() == pytest.approx(0.5, abs=0.02)
    # In between it is the noise alone.
    inner = ~below & (noisy < 16 / 17)
    from_noise = (noisy - clean)[inner] / 0.5
    assert np.abs(from_noise).max() > 1.0

    reals = ExpandedAEF(
        (4, 4, 1), 2, num_levels=None, logit_lambda=0.05, noise_std=0.5
    ).corrupt(clean.astype("float32"), seed=1)
    assert np.all((reals.numpy() > 0.0) & (reals.numpy() < 1.0))


# What Keras users pass.


@pytest.fixture(scope="module")
def retrained():
    """Trains one model from one beginning; returns its weights after that."""
    model = tiny(has_flows=False)
    states = [v for v in (*model.weights, *model.optimizer.variables)]
    start = [v.numpy() for v in states]

    def train(data, **kwargs):
        for variable, value in zip(states, start, strict=True):
            variable.assign(value)
        model.fit(data, shuffle=False, verbose=0, **kwargs)
        assert int(model.optimizer.iterations.numpy()) == len(INTEGERS) // SIZE
        return weights(model)

    return train


@pytest.mark.parametrize(
    "data",
    [
        generator,
        Batches,
        lambda x: iter(list(generator(x))),
        lambda x: batches(x).map(
            lambda b: tf.numpy_function(lambda v: v, [b], b.dtype)
        ),
    ],
    ids=["generator", "PyDataset", "iterator", "unknown shape"],
)
def test_all_kinds_of_data_train_alike(data, retrained):
    expected = retrained(batches(INTEGERS))
    assert largest_difference(retrained(data(INTEGERS)), expected) < 1e-6


@pytest.mark.parametrize("data", [np.asarray, ArrayLike, tf.constant])
def test_all_kinds_of_arrays_train_alike(data, retrained):
    expected = retrained(batches(INTEGERS))
    got = retrained(data(INTEGERS), batch_size=SIZE)
    assert largest_difference(got, expected) < 1e-6


def test_data_sets_of_unknown_shape_train_with_xla():
    model = plain(jit_compile=True)
    vague = tf.data.Dataset.from_generator(
        lambda: generator(INTEGERS), output_types=tf.uint8
    )
    model.fit(vague, verbose=0)
    assert int(model.optimizer.iterations.numpy()) == len(INTEGERS) // SIZE


def test_values_of_a_batch_have_their_names():
    # Of this one, the alphabet puts the norm of the gradient between the two.
    model = tiny(ExpandedAEF, has_flows=False, run_eagerly=True)
    values = model.train_on_batch(INTEGERS[:SIZE])
    named = dict(zip(model.metrics_names, values, strict=False))
    assert named["joint_bits_per_dim"] == pytest.approx(
        named["loss"] / (16 * np.log(2)) + np.log2(17), rel=1e-5
    )


def test_one_batch_is_one_step():
    model, expected = tiny(has_flows=False), tiny(has_flows=False)
    logs = model.train_on_batch(INTEGERS[:SIZE], return_dict=True)
    history = expected.fit(INTEGERS[:SIZE], shuffle=False, verbose=0).history
    assert largest_difference(weights(model), weights(expected)) < 1e-6
    for name, [value] in history.items():
        assert logs[name] == pytest.approx(value, rel=1e-5), name
    values = model.train_on_batch(INTEGERS[:SIZE])
    assert len(values) == len(history)
    tested = model.test_on_batch(INTEGERS[:SIZE], return_dict=True)
    evaluated = model.evaluate(
        INTEGERS[:SIZE], batch_size=SIZE, verbose=0, return_dict=True
    )
    assert tested == pytest.approx(evaluated)
    assert model.predict_on_batch(INTEGERS[:3]).shape == (3, 4, 4, 1)


@pytest.mark.parametrize(
    ("method", "kwargs"),
    [
        ("fit", {"sample_weight": np.ones(96)}),
        ("fit", {"class_weight": {0: 1.0, 1: 2.0}}),
        ("fit", {"y": INTEGERS}),
        ("fit", {"validation_data": (INTEGERS, INTEGERS)}),
        ("fit", {"validation_data": (INTEGERS, None, np.ones(96))}),
        ("evaluate", {"sample_weight": np.ones(96)}),
        ("train_on_batch", {"sample_weight": np.ones(96)}),
        ("train_on_batch", {"class_weight": {0: 1.0}}),
        ("test_on_batch", {"sample_weight": np.ones(96)}),
        ("test_on_batch", {"y": np.ones(96)}),
    ],
)
def test_weights_and_labels_are_refused(method, kwargs, trained, refused):
    said = refused(getattr(trained, method), INTEGERS, **kwargs)
    assert "images alone, with equal weights" in said


def test_an_error_of_the_data_is_passed_on(trained):
    with pytest.raises(ValueError, match=r"^photo_17\.jpg is cut; fetch it again$"):
        trained.evaluate(Failing(INTEGERS), verbose=0)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("photos/", "an array of images, or a data set or generator of batches, got s"),
        ({"image": INTEGERS}, "got dict"),
        (3, "got int"),
        (None, "there are no data"),
        (INTEGERS.astype(object), "integers or floats, got object"),
        (INTEGERS > 3, "integers or floats, got bool"),
        (FLOATS.astype(np.longdouble), "of up to 64 bits, got "),
        (INTEGERS.astype(str), "integers or floats, got "),
        (list(INTEGERS), "one array of images, got a list of 96"),
        (((b, 1) for b in generator(INTEGERS)), "images alone, got a tuple of 2"),
        (Labelled(INTEGERS), "images alone, got a tuple of 2 per batch; return the im"),
        (tf.data.Dataset.from_tensors("x").batch(2), "takes events of shape"),
        (batches({"image": INTEGERS}), "a data set of dictionaries with 'image'; take"),
        (batches(({"image": INTEGERS},)), "a data set of dictionaries with 'image'"),
        (batches(((INTEGERS,),)), "a data set of tuples in tuples; drop"),
        (batches((INTEGERS, INTEGERS)), "a data set of tuples of 2; drop"),
        (
            batches(INTEGERS).map(lambda b: tf.RaggedTensor.from_tensor(b)),
            "dense events of one shape, got a data set of RaggedTensors",
        ),
        (
            batches(INTEGERS[:, :3]).map(
                lambda b: tf.numpy_function(lambda v: v, [b], b.dtype)
            ),
            "takes events of shape [batch, 4, 4, 1], got [32, 3, 4, 1]",
        ),
    ],
)
def test_what_is_no_data_is_refused(data, message, trained, refused):
    assert message in refused(trained.fit, data, verbose=0)


def test_a_data_set_of_images_in_tuples_is_one_of_images(trained):
    loss = trained.evaluate(batches((INTEGERS,)), verbose=0)
    assert loss == trained.evaluate(batches(INTEGERS), verbose=0)


@pytest.mark.parametrize("name", ["model.h5", "model.hdf5"])
def test_hdf5_is_refused(name, trained, tmp_path):
    with pytest.raises(
        ValueError, match=r"not saved as HDF5, .*name the file \*.keras"
    ):
        trained.save(tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("variables", "settings", "message"),
    [
        ({"KERAS_BACKEND": "jax"}, "{}", "got 'jax' (KERAS_BACKEND is set)"),
        ({}, '{"backend": "torch"}', "got 'torch' ("),
        ({}, '{"image_data_format": "channels_first"}', "got image_data_format 'chann"),
        ({"KERAS_BACKEND": "tensorflow"}, '{"backend": "jax"}', None),
        ({}, "not json", None),
    ],
)
def test_other_backends_are_refused_at_the_import(
    variables, settings, message, tmp_path
):
    (tmp_path / "keras.json").write_text(settings)
    environment = {"PATH": "", "KERAS_HOME": str(tmp_path), **variables}
    done = subprocess.run(
        [sys.executable, "-c", "import aef_tfp"],
        env=environment,
        capture_output=True,
        text=True,
        cwd=tmp_path.parent if message is None else None,
    )
    assert (message is None) == (done.returncode == 0), done.stderr
    if message is not None:
        assert message in done.stderr.splitlines()[-1]


def test_a_user_may_have_no_home(monkeypatch):
    import pwd

    def unknown(number):
        raise KeyError(number)

    # As in a container that runs under a number of its own.
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "KERAS_HOME"):
        monkeypatch.delenv(name, raising=False)
    # The place that Keras itself falls back on.
    assert backend._saved_settings()[1] == Path("/tmp/.keras/keras.json")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    message = (
        "there is no home directory for the cache in '~/.cache': set XDG_CACHE_HOME to"
        " a folder (cache_dir=...)"
    )
    with pytest.raises(OSError, match=f"^{re.escape(message)}$"):
        default_cache_dir()


def test_a_generator_gives_one_type_of_batches(trained, refused):
    # TensorFlow would cast to the type of the first: all of these floats to 0.
    for first, then in ((INTEGERS, FLOATS), (INTEGERS, INTEGERS.astype("int64"))):
        data = np.split(first, 3)[:2] + np.split(then, 3)[2:]
        for method in (trained.evaluate, trained.predict):
            said = refused(method, iter(data), verbose=0)
            assert f"of one type, got {then.dtype} after uint8; convert" in said
    mixed = [FLOATS[:SIZE].astype("float64"), FLOATS[SIZE:]]
    loss = trained.evaluate(iter(mixed), verbose=0)
    assert loss == trained.evaluate(generator(FLOATS), verbose=0)
    assert "as arrays, got a NoneType" in refused(trained.fit, iter([None]), verbose=0)


def test_a_generator_is_read_to_its_end_once(trained, refused):
    said = refused(trained.fit, generator(INTEGERS), epochs=2, verbose=0)
    assert said.startswith(
        "fit: a generator can be read to its end but once, not in 2 "
    )
    said = refused(
        trained.fit,
        INTEGERS,
        validation_data=generator(INTEGERS),
        epochs=4,
        validation_freq=2,
        verbose=0,
    )
    assert "not in 2 epochs; pass validation_steps if" in said
    endless = (INTEGERS[:SIZE] for _ in range(5))
    held_out = {"validation_data": INTEGERS[:SIZE], "validation_freq": np.int64(2)}
    history = trained.fit(endless, steps_per_epoch=2, epochs=2, verbose=0, **held_out)
    assert history.epoch == [0, 1]
    assert len(history.history["val_loss"]) == 1


class Endless(Batches):
    num_batches = None


def test_data_without_an_end_want_a_number_of_steps(trained, refused):
    endless = batches(INTEGERS).repeat()
    for data, end in (
        (endless, "leave out repeat()."),
        (Endless(INTEGERS), "batches."),
    ):
        for method in (trained.evaluate, trained.predict):
            said = refused(method, data, verbose=0)
            assert said.startswith(f"{method.__name__}: the data have no end, got an ")
            assert "; pass steps, or" in said
            assert said.endswith(end)
        said = refused(trained.fit, INTEGERS, validation_data=data, verbose=0)
        assert said.startswith("validation_data: the data have no end")
        assert "; pass validation_steps, or" in said
        for more in ({"epochs": 2}, {"validation_data": INTEGERS}):
            said = refused(trained.fit, data, verbose=0, **more)
            assert said.startswith("fit: the data have no end")
            assert "; pass steps_per_epoch, or" in said
    assert trained.evaluate(endless, steps=1, verbose=0)[0]
    # A callback ends the only epoch, and Keras validates then.
    stop = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: setattr(trained, "stop_training", True)
    )
    held_out = {"validation_data": INTEGERS, "callbacks": [stop]}
    assert "val_loss" in trained.fit(endless, verbose=0, **held_out).history


def test_no_data_are_no_answer(trained, refused):
    for nothing in (INTEGERS[:0], batches(INTEGERS[:0]), Batches(INTEGERS[:0])):
        for method in (trained.fit, trained.evaluate, trained.predict):
            assert "there are no images, got " in refused(method, nothing, verbose=0)
        said = refused(trained.fit, INTEGERS, validation_data=nothing, verbose=0)
        assert said.startswith("validation_data: there are no images, got ")
    assert "no images" in refused(trained.train_on_batch, INTEGERS[:0])
    # Known only when none comes.
    filtered = batches(INTEGERS).filter(lambda batch: False)
    for method in (trained.fit, trained.evaluate, trained.predict):
        assert "the data gave no batch" in refused(method, filtered, verbose=0)
    ended = dict(steps_per_epoch=len(INTEGERS) // SIZE, epochs=2, verbose=0)
    with pytest.raises(
        ValueError, match="a generator, it had ended in an epoch before"
    ):
        trained.fit(generator(INTEGERS), **ended)
    assert trained.joint_log_prob(INTEGERS[:0]).shape == (0,)


def test_masked_values_are_no_values(trained, refused):
    masked = np.ma.masked_array(INTEGERS, mask=INTEGERS == 3)
    count = np.count_nonzero(INTEGERS == 3)
    for method in (trained.fit, trained.evaluate, trained.predict):
        for data in (masked, iter([masked])):
            assert f"got {count} masked values" in refused(method, data, verbose=0)
    whole = np.ma.masked_array(INTEGERS, mask=False)
    assert trained.evaluate(whole, verbose=0) == trained.evaluate(INTEGERS, verbose=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"batch_size": 2.5}, "batch_size must be an integer, got 2.5"),
        ({"epochs": 1.0}, "epochs must be an integer, got 1.0"),
        ({"steps_per_epoch": 0}, "steps_per_epoch must be at least 1, got 0"),
        ({"validation_split": -0.5}, "validation_split must lie in [0, 1), got -0.5"),
        ({"validation_split": None}, "validation_split must lie in [0, 1), got None"),
        ({"validation_split": 0.999}, "0.999 leaves 0 of 96 images to train on; take"),
        ({"validation_freq": 0}, "validation_freq must be an integer of at least 1"),
        ({"validation_freq": 1.5}, "or a list of epochs, got 1.5"),
        ({"validation_steps": -1}, "validation_steps must be at least 1, got -1"),
    ],
)
def test_options_that_keras_would_not_follow_are_refused(options, message, trained):
    with pytest.raises(ValueError, match=re.escape(message)):
        trained.fit(INTEGERS, verbose=0, **options)


def test_a_batch_size_is_for_arrays(trained, refused):
    for method in (trained.fit, trained.evaluate, trained.predict):
        said = refused(method, batches(INTEGERS), batch_size=8, verbose=0)
        assert said.startswith("batch_size is for arrays, got 8 for a _BatchDataset")


def test_settings_that_change_after_a_step_count():
    model = tiny(ExpandedAEF, has_flows=False)
    model.adapt(INTEGERS)
    before = model.evaluate(INTEGERS, verbose=0)[0]
    model.seed = 7
    assert model.evaluate(INTEGERS, verbose=0)[0] != before
    model.seed = 0
    assert model.evaluate(INTEGERS, verbose=0)[0] == before
    model.noise_std = 0.5
    assert model.evaluate(INTEGERS, verbose=0)[0] > before
    with pytest.raises(ValueError, match=r"seed must be below 2\*\*64, got 18446744"):
        small_model(ExpandedAEF, (4, 4, 1), 2, seed=2**64)
    with pytest.raises(ValueError, match=r"seed must be an integer, got 1\.5"):
        model.sample(2, seed=1.5)


def test_blank_images_in_front_hide_no_units(trained, refused):
    blank_first = np.concatenate([np.zeros_like(DIVIDED), DIVIDED])
    for kind in KINDS.values():
        assert "disguise" in refused(trained.evaluate, kind(blank_first), verbose=0)


def test_numbers_beyond_the_dtype_of_the_model_are_refused():
    model = small_model(ExpandedAEF, (3,), 2, dtype="float32")
    with pytest.raises(ValueError, match=r"model's float32, got .* to 1e\+300; give"):
        model.adapt(np.array([[0.0, 1.0, 1e300]]))
    with pytest.raises(ValueError, match="dtype 'bfloat16' is not supported"):
        ExpandedAEF((3,), 2, dtype="bfloat16")


def test_checkpoints_without_validation_data_say_so_before_training(tmp_path):
    model = plain()
    checkpoints = Checkpoints(str(tmp_path), lambda epoch: 3 * (epoch + 1))
    with pytest.raises(ValueError, match="'val_loss', but fit has no validation data"):
        model.fit(FLOATS, batch_size=SIZE, verbose=0, callbacks=[checkpoints])
    assert int(model.optimizer.iterations.numpy()) == 0
    model.fit(
        FLOATS,
        batch_size=SIZE,
        verbose=0,
        callbacks=[checkpoints],
        validation_data=FLOATS,
        initial_epoch=0,
    )
    assert (tmp_path / "best.keras").is_file()
    with pytest.raises(FileNotFoundError, match="holds no run"):
        load_best(str(tmp_path))


def test_a_model_in_double_precision_sees_all_digits(rng):
    # Their differences are no more than a few digits of single precision.
    x = 1e6 + 0.1 * rng.normal(size=(40, 5))
    arguments = {"num_levels": None, "logit_lambda": None, "dtype": "float64"}
    no_flows = {"core_flow": "none", "prior_flow": "none"}
    model = small_model(ExpandedAEF, (5,), 2, **no_flows, **arguments)
    model.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    model.adapt(x)
    expected = -model.joint_log_prob(x).numpy().mean()
    values = {
        "evaluate": model.evaluate(x, verbose=0, return_dict=True)["loss"],
        "sizes": model.evaluate(x, batch_size=30, verbose=0, return_dict=True)["loss"],
        "fit": model.fit(x, verbose=0, batch_size=20).history["loss"][0],
    }
    held_out = model.fit(batches(x), validation_data=x, verbose=0).history["val_loss"]
    for name, value in {**values, "validation": held_out[0]}.items():
        # Metrics are in single precision.
        assert value == pytest.approx(expected, rel=1e-6), name
    np.testing.assert_allclose(
        model.predict(x, verbose=0), model.reconstruct(x), rtol=0, atol=1e-8
    )
    history = model.fit(x, validation_split=0.5, batch_size=8, verbose=0).history
    halves = [-model.joint_log_prob(part).numpy().mean() for part in (x[:20], x[20:])]
    found = history["loss"][0], history["val_loss"][0]
    np.testing.assert_allclose(found, halves, rtol=1e-6)
    assert int(model.optimizer.iterations) == 2 + 2 + 3
    # As in Keras, data of the validation's own come first.
    both = {"validation_split": 0.5, "validation_data": x[:20]}
    history = model.fit(x, batch_size=40, verbose=0, **both).history
    assert history["val_loss"][0] == pytest.approx(halves[0], rel=1e-6)
    assert history["loss"][0] == pytest.approx(expected, rel=1e-6)
