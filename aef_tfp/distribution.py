"""Where a run trains: its strategy, and what the workers of one run agree on.

A worker is one process of the cluster that `TF_CONFIG` describes; every worker runs the
same program. One of them is the chief: it alone writes files.
"""

import json
import os
from collections.abc import Iterable
from typing import Any, get_args

import tensorflow as tf

from aef_tfp.config import StrategyName

__all__ = [
    "any_worker",
    "get_strategy",
    "is_chief",
    "share_from_chief",
    "share_json",
]


def get_strategy(name: StrategyName = "auto") -> tf.distribute.Strategy:
    """Returns a strategy by its name.

    With several workers this comes before all other use of TensorFlow, and waits until
    every worker is there.

    Args:
        name: `"none"`: one device. `"mirrored"`: all GPUs of this machine, or its CPU.
            `"multi-worker"`: the cluster of the environment variable TF_CONFIG.
            `"auto"`: the cluster if TF_CONFIG is set, else all GPUs if there are
            several, else one device.

    Raises:
        ValueError: If the name is unknown, or TF_CONFIG does not describe a cluster.
        RuntimeError: If a cluster is asked for after other use of TensorFlow.

    Example:
        >>> with get_strategy("mirrored").scope():
        ...     model = PartitionedAEF((28, 28, 1), latent_dim=32, num_levels=256)
    """
    if name not in get_args(StrategyName):
        known = ", ".join(get_args(StrategyName))
        raise ValueError(f"strategy must be one of {known}, got {name!r}.")
    if name == "auto":
        name = _best_strategy()
    if name == "multi-worker":
        _check_cluster()
        return tf.distribute.MultiWorkerMirroredStrategy()
    if name == "mirrored":
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


def _best_strategy() -> StrategyName:
    if os.environ.get("TF_CONFIG"):
        return "multi-worker"
    several = len(tf.config.list_physical_devices("GPU")) > 1
    return "mirrored" if several else "none"


def _check_cluster() -> None:
    """Refuses what TensorFlow would answer with a traceback, or with one worker."""
    text = os.environ.get("TF_CONFIG", "")
    example = (
        '{"cluster": {"worker": ["host1:12345", "host2:12345"]}, '
        '"task": {"type": "worker", "index": 0}}'
    )
    try:
        config = json.loads(text)
        workers, task = config["cluster"]["worker"], config["task"]
        known = task["type"] == "worker" and 0 <= int(task["index"]) < len(workers)
    except (ValueError, KeyError, TypeError):
        known = False
    if not known:
        raise ValueError(
            "The strategy multi-worker needs the environment variable TF_CONFIG to "
            f"list the workers and this one's place, e.g. {example}; got {text!r}."
        )


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process is the one that writes files."""
    resolver = strategy.cluster_resolver
    return not _is_multi_worker(strategy) or resolver.task_id == 0


def any_worker(strategy: tf.distribute.Strategy, flag: bool) -> bool:
    """Whether the flag is set on any worker; all workers have to ask at once."""
    if not _is_multi_worker(strategy):
        return flag
    return bool(_sum_over_workers(strategy, tf.constant(int(flag))) > 0)


def share_from_chief(
    strategy: tf.distribute.Strategy, variables: Iterable[Any]
) -> None:
    """Gives every worker the chief's values; all workers have to call at once.

    So only the chief has to see the files that it restored them from.

    Args:
        strategy: Any; nothing happens with one worker.
        variables: Keras variables, in the same order on all workers.
    """
    if not _is_multi_worker(strategy):
        return
    for variable in variables:
        value = tf.convert_to_tensor(variable)
        number = tf.cast(value, tf.int32) if value.dtype == tf.bool else value
        # Adding zeros changes no value.
        if not is_chief(strategy):
            number = tf.zeros_like(number)
        variable.assign(tf.cast(_sum_over_workers(strategy, number), value.dtype))


def share_json(strategy: tf.distribute.Strategy, value: Any) -> Any:
    """Returns the chief's value on every worker; all workers have to call at once.

    Args:
        strategy: Any; with one worker the value comes back as it is.
        value: What JSON takes; on other workers than the chief it is not used.
    """
    if not _is_multi_worker(strategy):
        return value
    text = json.dumps(value).encode() if is_chief(strategy) else b""
    size = int(_sum_over_workers(strategy, tf.constant(len(text))))
    codes = tf.constant(list(text.ljust(size, b"\0")), tf.int32)
    return json.loads(bytes(_sum_over_workers(strategy, codes).numpy().tolist()))


def _is_multi_worker(strategy: tf.distribute.Strategy) -> bool:
    resolver = strategy.cluster_resolver
    return resolver is not None and len(resolver.cluster_spec().as_dict()) > 0


def _sum_over_workers(strategy: tf.distribute.Strategy, value: tf.Tensor) -> tf.Tensor:
    # A fresh tensor: a constant may lie on a device that is not this worker's own.
    return strategy.reduce(tf.distribute.ReduceOp.SUM, tf.identity(value), axis=None)
