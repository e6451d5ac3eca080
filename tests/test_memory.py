"""Freed memory stays with the process where training is compiled for the CPU."""

import ctypes
import platform
import subprocess
import sys

import pytest
import tensorflow as tf
from test_training_engine import tiny

from aef_tfp.models import engine, memory
from aef_tfp.models.memory import keep_freed_memory

SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


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
    command = [sys.executable, "-c", NEW_PAGES_OF_THE_SECOND_REQUEST, memory.__file__]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(finished.stdout) < 100  # of 12,288


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
    monkeypatch.setattr(engine, "keep_freed_memory", lambda: asked.append(True))
    devices = [object()] if has_gpu else []
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda *_: devices)
    tiny(jit_compile=jit_compile).make_train_function()
    assert bool(asked) == (jit_compile and not has_gpu)
