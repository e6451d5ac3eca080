"""What works behind Keras, and where; imports nothing heavy."""

import json
import os
import sys
from pathlib import Path
from typing import Literal

__all__ = ["StrategyName", "check_backend"]

StrategyName = Literal["auto", "none", "mirrored", "multi-worker"]
"""Devices and workers by a name; see `aef_tfp.distribution.get_strategy`."""


def check_backend() -> None:
    """Refuses settings of Keras under which this package cannot work.

    Keras reads them when it is imported, which then fails in another way, or not.

    Raises:
        ImportError: If the backend is not TensorFlow, or channels come first.
    """
    if "keras" in sys.modules:
        settings = sys.modules["keras"].config
        backend, source = settings.backend(), "Keras was imported"
        data_format = settings.image_data_format()
    else:
        saved, path = _saved_settings()
        backend, source = saved.get("backend"), str(path)
        data_format = saved.get("image_data_format")
        if os.environ.get("KERAS_BACKEND"):
            backend, source = os.environ["KERAS_BACKEND"], "KERAS_BACKEND is set"
    if backend not in (None, "tensorflow"):
        raise ImportError(
            f"aef_tfp needs the backend tensorflow of Keras, got {backend!r} "
            f"({source}); set KERAS_BACKEND=tensorflow before Python starts."
        )
    if data_format not in (None, "channels_last"):
        raise ImportError(
            f"aef_tfp takes images with channels last, got image_data_format "
            f"{data_format!r}; call keras.config.set_image_data_format("
            "'channels_last') before the import, or correct keras.json."
        )


def _saved_settings() -> tuple[dict[str, str], Path]:
    home = os.environ.get("KERAS_HOME")
    if home is None:
        # As in Keras, also for a user without one.
        base = os.path.expanduser("~")
        home = os.path.join(base if os.access(base, os.W_OK) else "/tmp", ".keras")
    path = Path(os.path.expanduser(os.path.join(home, "keras.json")))
    try:
        saved = json.loads(path.read_text())
    except (OSError, ValueError):
        # Keras itself goes on with its defaults.
        return {}, path
    return (saved if isinstance(saved, dict) else {}), path
