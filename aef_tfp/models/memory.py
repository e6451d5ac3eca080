"""What the process does with memory that a training step has freed."""

import ctypes
import os

__all__ = ["keep_freed_memory"]

# M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h.
_THRESHOLDS = {-1: "MALLOC_TRIM_THRESHOLD_", -3: "MALLOC_MMAP_THRESHOLD_"}
# The heap of a thread, which no setting makes larger.
_KEPT_BYTES = 2**26


def keep_freed_memory() -> bool:
    """Lets the C library keep freed pieces of up to 64 MiB for the next request.

    A step that XLA has compiled for the CPU takes its memory in one piece and frees it
    at the end. glibc returns pieces above 32 MiB to the system each time, and the next
    step waits for all the pages to be handed out anew: 15,000 of them for the paper's
    small models, whose pieces have 60 MiB. Larger pieces go back as before.

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
