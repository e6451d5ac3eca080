"""Where a run was trained: versions, machine and devices, of all its sittings."""

import contextlib
import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any

import tensorflow as tf

from aef_tfp.files import replace_text
from aef_tfp.records import library_versions
from aef_tfp.saved import DamagedFile, read_json

__all__ = ["write_environment"]

# Beside those that a number depends on.
_PACKAGES = ("tf_keras", "tensorflow-datasets")


def write_environment(
    path: Path,
    strategy: tf.distribute.Strategy,
    done: int,
    data_dir: Path | None = None,
) -> None:
    """Writes where a run goes on, and under `before` where it was, newest first.

    Args:
        path: The JSON file.
        strategy: The devices.
        done: The iterations that were done elsewhere.
        data_dir: Where the images are, if somebody said so; see
            `saved.place_of_images`.

    Raises:
        CannotWrite: If the file cannot be written.
    """
    present = {"from_iteration": done, **_environment(strategy)}
    if data_dir is not None:
        # The next command may be typed in another directory.
        present["data_dir"] = os.path.abspath(os.path.expanduser(data_dir))
    # Of a sitting whose iterations are lost, nothing is left in the weights.
    before = [place for place in _sittings(path) if place["from_iteration"] < done]
    if before and _is_same(before[0], present):
        present = before.pop(0)
    replace_text(path, json.dumps(present | {"before": before}, indent=2) + "\n")


def _sittings(path: Path) -> list[dict[str, Any]]:
    """What the file holds; nothing, if it is damaged, for no run should end of that."""
    if not path.exists():
        return []
    with contextlib.suppress(DamagedFile, AttributeError, TypeError):
        newest = read_json(path)
        # Older versions wrote the last one alone, without where it began.
        places = [newest, *newest.pop("before", [])]
        places = [{"from_iteration": 0, **place} for place in places]
        if all(isinstance(place["from_iteration"], int) for place in places):
            return places
    return []


def _is_same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one | {"from_iteration": 0} == other | {"from_iteration": 0}


def _environment(strategy: tf.distribute.Strategy) -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "devices": [
            f"{device.device_type}: {device.name}"
            for device in tf.config.list_logical_devices()
        ],
        "strategy": type(strategy).__name__,
        "replicas": strategy.num_replicas_in_sync,
        "packages": library_versions()
        | {name: importlib.metadata.version(name) for name in _PACKAGES},
    }
