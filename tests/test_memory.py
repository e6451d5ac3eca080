"""Freed memory stays with the process."""

import ctypes
import gc
import os
import platform
import subprocess
import sys
import weakref

import numpy as np
import pytest
import tensorflow as tf
from test_training_engine import FLOATS, small_iwae, tiny

from aef_tfp import ExpandedAEF, memory
from aef_tfp.engine import trainer
from aef_tfp.engine.tracing import traced
from aef_tfp.memory import keep_freed_memory, use_memory_pool

SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


POOL, POOL_LIMIT = "TF_CPU_ALLOCATOR_USE_BFC", "TF_CPU_BFC_MEM_LIMIT_IN_MB"

# As in a notebook, where TensorFlow is there before; 256 MiB, above what malloc keeps.
NEW_PAGES_OF_THE_SECOND_TENSOR = """
import resource
import tensorflow as tf
import keras
import aef_tfp
aef_tfp.use_memory_pool()
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tf.ones([2**26])
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run_alone(program, *arguments):
    """The number that a program prints, in a process of its own."""
    command = [sys.executable, "-c", program, *arguments]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(finished.stdout)


def test_a_large_tensor_gets_the_pages_of_the_one_before(monkeypatch):
    monkeypatch.delenv(POOL, raising=False)
    monkeypatch.delenv(POOL_LIMIT, raising=False)
    assert run_alone(NEW_PAGES_OF_THE_SECOND_TENSOR) < 6_000  # of 65,536


@pytest.mark.filterwarnings("ignore:use_memory_pool comes too late")
@pytest.mark.parametrize(
    ("gibibytes", "limit"), [(24, "65536"), (1024, "1048576"), (None, "65536")]
)
def test_the_pool_may_grow_to_the_memory(gibibytes, limit, monkeypatch):
    monkeypatch.delenv(POOL, raising=False)
    monkeypatch.delenv(POOL_LIMIT, raising=False)

    def sysconf(name):
        if gibibytes is None:
            raise ValueError("unrecognized configuration name")
        return {"SC_PAGE_SIZE": 2**12, "SC_PHYS_PAGES": gibibytes * 2**18}[name]

    monkeypatch.setattr(os, "sysconf", sysconf)
    use_memory_pool()
    assert (os.environ[POOL], os.environ[POOL_LIMIT]) == ("true", limit)


@pytest.mark.filterwarnings("ignore:use_memory_pool comes too late")
def test_the_users_pool_stays(monkeypatch):
    monkeypatch.setenv(POOL, "false")
    monkeypatch.setenv(POOL_LIMIT, "100")
    use_memory_pool()
    assert (os.environ[POOL], os.environ[POOL_LIMIT]) == ("false", "100")


@pytest.fixture(autouse=True)
def no_settings_of_the_user(monkeypatch):
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)


# In a process of its own: what others have freed at the end of the heap counts, too.
NEW_PAGES_OF_THE_SECOND_REQUEST = """
import ctypes, resource, runpy, sys
assert runpy.run_path(sys.argv[1])["keep_freed_memory"]()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
size = ctypes.c_size_t(48 * 2**20)  # above what glibc itself keeps, 32 MiB
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    pointer = ctypes.c_void_p(libc.malloc(size))
    libc.memset(pointer, 1, size)
    libc.free(pointer)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's settings")
def test_the_second_request_gets_the_pages_of_the_first():
    pages = run_alone(NEW_PAGES_OF_THE_SECOND_REQUEST, memory.__file__)
    assert pages < 100  # of 12,288


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_the_user_stay(name, monkeypatch):
    monkeypatch.setenv(name, "1")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: pytest.fail("malloc was set"))
    assert not keep_freed_memory()


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert not keep_freed_memory()


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("has_gpu", [False, True])
def test_a_step_compiled_for_the_cpu_asks_for_it(jit_compile, has_gpu, monkeypatch):
    asked = []
    monkeypatch.setattr(trainer, "keep_freed_memory", lambda: asked.append(True))
    devices = [object()] if has_gpu else []
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda *_: devices)
    tiny(jit_compile=jit_compile).make_train_function()
    assert bool(asked) == (jit_compile and not has_gpu)


def test_a_pool_after_the_first_tensor_is_too_late(monkeypatch):
    monkeypatch.setenv(POOL, "true")
    monkeypatch.setenv(POOL_LIMIT, "1")
    tf.zeros([])
    with pytest.warns(UserWarning, match="too late.*before the first tensor"):
        use_memory_pool()


@pytest.mark.parametrize(
    ("make", "use"),
    [
        # In a graph of the user's own.
        (tiny, lambda model, x: tf.function(model.distribution.log_prob)(x)),
        (
            small_iwae,
            lambda model, x: model.marginal_log_prob(x, 2, proposal="laplace"),
        ),
        (lambda: tiny(ExpandedAEF), lambda model, x: model.predict(x, verbose=0)),
    ],
)
def test_a_model_that_was_used_is_freed(make, use):
    def used():
        model = make()
        model.compile("adam", jit_compile=False)
        model.fit(FLOATS, validation_data=FLOATS, batch_size=8, verbose=0)
        model.sample(2)
        use(model, FLOATS[:2])
        return weakref.ref(model)

    # Nobody but the tests calls `keras.utils.clear_session`.
    model = used()
    gc.collect()
    assert model() is None


def test_a_gradient_outlives_the_graph_that_it_was_first_taken_in():
    """`tracing` gives custom gradients to the graph of their function, no other one."""

    @traced
    def silu(x):
        return tf.nn.silu(x)

    @traced
    def outer(x):
        return silu(x)

    x = tf.constant([0.5, -2.0])
    outer(x)
    del outer
    gc.collect()
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = silu(x)
    sigmoid = 1 / (1 + np.exp(-x.numpy()))
    expected = sigmoid * (1 + x.numpy() * (1 - sigmoid))
    np.testing.assert_allclose(tape.gradient(value, x), expected, rtol=1e-6)


def test_a_graph_that_failed_is_freed():
    class Place:
        """What a failed trace held."""

    def failed():
        place = Place()

        @traced
        def function(x):
            tf.nn.silu(x)
            tf.compat.v1.get_default_graph().place = place
            raise ValueError("in the middle")

        with pytest.raises(ValueError, match="in the middle"):
            function(tf.constant([1.0]))
        return weakref.ref(place)

    place = failed()
    gc.collect()
    assert place() is None
