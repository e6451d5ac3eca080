"""A clean terminal for the command lines."""

import contextlib
import importlib
import os
import sys
import tempfile
from collections.abc import Iterator
from types import ModuleType

__all__ = ["import_quietly"]


def import_quietly(name: str) -> ModuleType:
    """Imports a module, and TensorFlow with it, without TensorFlow's start-up notes.

    Its libraries print notes on the hardware to the standard error before any log level
    is read, so they are caught at the file descriptor. If the import fails, they are
    shown after all. Later notes are held back by `TF_CPP_MIN_LOG_LEVEL`, unless that is
    set already.

    Args:
        name: Full name of the module.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _held_back_standard_error():
        importlib.import_module("tensorflow").config.list_physical_devices()
    return importlib.import_module(name)


@contextlib.contextmanager
def _held_back_standard_error() -> Iterator[None]:
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as notes:
        os.dup2(notes.fileno(), 2)
        try:
            yield
        except BaseException:
            notes.seek(0)
            os.write(kept, notes.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
