"""Fixtures shared by all tests; TensorFlow is set up before anything imports it."""

import gc
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# What is compiled runs once or twice, and machine code as it comes serves for that.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import numpy as np
import pytest
from haste import hurry


def pytest_configure(config):
    # A process that only hands tests to others would keep them waiting for its import
    # of TensorFlow, which is why functions import it here.
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        return
    import tensorflow as tf

    # Two logical CPU devices stand in for two GPUs. It must precede any operation.
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * 2
    )
    # As the kernel of the notebooks; other programs that tests start stay as users
    # have them.
    hurry()


# The files that take longest, by what was measured, in that order.
_LONG = (
    *("training_engine", "evaluate", "run_directory", "docs", "export", "workers"),
    *("interruptions", "notebooks", "models", "intake", "annealed", "run"),
    *("residual", "averages", "user_networks", "networks", "update", "importance"),
    *("tensorboard", "variational", "long_runs", "pipeline", "memory", "citizens"),
    "frechet",
)


def pytest_collection_modifyitems(items):
    # The long ones come first, so that a process that has done its files does not wait
    # for another that has just begun with such a one.
    places = {f"test_{name}": place for place, name in enumerate(_LONG)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


def pytest_collection_finish():
    # Half a million objects of imports live to the end. Each collection would look
    # through all of them, and bring their pages back into the processor's caches.
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seeded(monkeypatch):
    import keras
    import tensorflow as tf

    # With its seed, TensorFlow forgets how to run each operation, which then takes ten
    # times as long once more; `_module` sets it. Networks draw by Keras's seed.
    with monkeypatch.context() as patch:
        patch.setattr(tf.random, "set_seed", lambda seed: None)
        keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True, scope="module")
def _module():
    """Seeds a module's fixtures, and frees its models, which refer to each other.

    Such fixtures come before the seed of the first test: without one of their own,
    their models would depend on the tests that ran before.
    """
    import keras

    keras.utils.set_random_seed(0)
    yield
    keras.utils.clear_session()  # collects, too


@pytest.fixture(scope="session")
def mirrored():
    """Two replicas. One strategy per process: several break later collectives."""
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


@pytest.fixture
def training_alone(monkeypatch):
    """Runs that only train, with history, checkpoints and the best model.

    Pictures and the evaluation at the end are half of a short run: each makes graphs.
    """
    from aef_tfp.callbacks import Pictures
    from aef_tfp.runs import training

    monkeypatch.setattr(training, "_evaluate", lambda *arguments: [])
    monkeypatch.setattr(Pictures, "pictures", lambda self: iter(()))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def digit_images():
    """All 1,797 digits, uint8 `[n, 8, 8, 1]`, 17 levels."""
    from sklearn.datasets import load_digits

    return load_digits().images[..., None].astype(np.uint8)
