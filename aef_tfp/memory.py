"""What the process does with memory: what a step has freed, what is garbage."""

import contextlib
import ctypes
import gc
import os
import sys
import warnings
from collections.abc import Iterator

__all__ = ["collector_paused", "keep_freed_memory", "use_memory_pool"]

# M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h.
_THRESHOLDS = {-1: "MALLOC_TRIM_THRESHOLD_", -3: "MALLOC_MMAP_THRESHOLD_"}
# The heap of a thread, which no setting makes larger.
_KEPT_BYTES = 2**26
# TensorFlow's own limit of the pool, in MiB.
_POOL_LIMIT = 2**16


def use_memory_pool() -> None:
    """Has TensorFlow keep the CPU memory that it has freed, in a pool.

    A step that XLA has compiled for the CPU takes its memory in one piece and frees it
    at the end. The C library returns large pieces to the system each time, and the next
    step waits for all the pages to be handed out anew: 400,000 of them for a residual
    network, more than half of the step's time. The pool (TensorFlow's "BFC allocator",
    which is what it uses beside a GPU) gives nothing back before the process ends. It
    may grow to the machine's memory, and to 64 GiB at least.

    It concerns the whole process, if TensorFlow has not begun to work there: importing
    it is not too late, a first tensor is, and there is a warning. A user's own
    `TF_CPU_ALLOCATOR_USE_BFC` and `TF_CPU_BFC_MEM_LIMIT_IN_MB` in the environment stay
    as they are. The trainers call it by themselves.

    Example:
        >>> import aef_tfp
        >>> aef_tfp.use_memory_pool()  # in the first cell of a notebook
    """
    context = sys.modules.get("tensorflow.python.eager.context")
    if context is not None and context.context()._initialized:
        warnings.warn(
            "use_memory_pool comes too late: TensorFlow has begun to work; call it "
            "before the first tensor or model.",
            stacklevel=2,
        )
    os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "true")
    limit = max(_POOL_LIMIT, _memory_in_mebibytes())
    os.environ.setdefault("TF_CPU_BFC_MEM_LIMIT_IN_MB", str(limit))


def _memory_in_mebibytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    except (AttributeError, OSError, ValueError):  # not Unix
        return 0


def keep_freed_memory() -> bool:
    """Lets the C library keep freed pieces of up to 64 MiB for the next request.

    For where `use_memory_pool` came too late. glibc by itself keeps 32 MiB, and a step
    of the paper's small models takes 60 MiB in one piece, so 15,000 pages. Larger
    pieces go back as before.

    It concerns the whole process. A user's own settings in the environment (the
    `MALLOC_` variables, `GLIBC_TUNABLES`) stay as they are; so do other C libraries.

    Returns:
        Whether the C library was told so.
    """
    names = (*_THRESHOLDS.values(), "GLIBC_TUNABLES")
    if any(name in os.environ for name in names):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc, not even Unix
        return False
    return all(mallopt(key, _KEPT_BYTES) for key in _THRESHOLDS)


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """Pauses Python's collector of reference cycles, where it is not off already.

    Importing TensorFlow and tracing a graph make hundreds of thousands of objects, and
    keep most of them. Whenever there are enough new ones, the collector looks through
    them, and at times through all that are alive: a third of the time of the imports, a
    seventh of what a first step takes.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
