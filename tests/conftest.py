"""Fixtures shared by all tests; TensorFlow is set up before anything imports it."""

import gc
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
import tensorflow as tf


def pytest_configure(config):
    # Two logical CPU devices stand in for two GPUs. It must precede any operation.
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * 2
    )
    # Most of a test's time goes into making graphs that run once or twice. Improving
    # them first took a fifth of it; programs that the tests start do so all the same.
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    # Graphs are many objects, and the collector looks through all that are alive, of
    # which a process of tests has more and more. `_module` collects after each module.
    gc.set_threshold(100_000, 20, 10)


@pytest.fixture(autouse=True)
def _seeded():
    keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True, scope="module")
def _module():
    """Seeds a module's fixtures, and frees its models, which refer to each other.

    Such fixtures come before the seed of the first test: without one of their own,
    their models would depend on the tests that ran before.
    """
    keras.utils.set_random_seed(0)
    yield
    keras.utils.clear_session()
    gc.collect()


@pytest.fixture(scope="session")
def mirrored():
    """Two replicas. One strategy per process: several break later collectives."""
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def digit_images():
    """All 1,797 digits, uint8 `[n, 8, 8, 1]`, 17 levels."""
    from sklearn.datasets import load_digits

    return load_digits().images[..., None].astype(np.uint8)
