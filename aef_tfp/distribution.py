"""Where a run trains: its strategy, and what the workers of one run agree on.

A worker is one process of the cluster that `TF_CONFIG` describes; every worker runs the
same program. One of them is the chief: it alone writes files.
"""

import json
import os
import socket
import time
from collections.abc import Iterable
from typing import Any, get_args

import tensorflow as tf

from aef_tfp.backend import StrategyName

__all__ = [
    "any_worker",
    "get_strategy",
    "is_chief",
    "share_from_chief",
    "share_json",
]

# How long workers wait for each other at the start: data may have to be prepared first.
_START_SECONDS = 300.0


def get_strategy(name: StrategyName = "auto") -> tf.distribute.Strategy:
    """Returns a strategy by its name.

    With several workers this comes before all other use of TensorFlow, and waits until
    every worker is there, at most five minutes.

    Args:
        name: `"none"`: one device. `"mirrored"`: all GPUs of this machine, or its CPU.
            `"multi-worker"`: the cluster of the environment variable TF_CONFIG.
            `"auto"`: the cluster if TF_CONFIG is set, else all GPUs if there are
            several, else one device.

    Raises:
        ValueError: If the name is unknown, or TF_CONFIG does not describe a cluster.
        OSError: If this worker's address is not to be had.
        TimeoutError: If a worker does not come.
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
        _wait_for_workers(*_read_cluster())
        return tf.distribute.MultiWorkerMirroredStrategy()
    if name == "mirrored":
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


def _best_strategy() -> StrategyName:
    if os.environ.get("TF_CONFIG"):
        return "multi-worker"
    several = len(tf.config.list_physical_devices("GPU")) > 1
    return "mirrored" if several else "none"


def _read_cluster() -> tuple[list[str], int]:
    """Returns all addresses, and which is this worker's.

    Refuses what TensorFlow would answer with a traceback, or with one worker.
    """
    text = os.environ.get("TF_CONFIG", "")
    example = (
        '{"cluster": {"worker": ["host1:12345", "host2:12345"]}, '
        '"task": {"type": "worker", "index": 0}}'
    )
    try:
        config = json.loads(text)
        jobs, task = config["cluster"], config["task"]
        addresses, index = jobs["worker"], int(task["index"])
        known = list(jobs) == ["worker"] and task["type"] == "worker"
        known &= isinstance(addresses, list) and 0 <= index < len(addresses)
        known &= len(set(addresses)) == len(addresses)
        known &= all(_host_and_port(address)[0] for address in addresses)
    except (ValueError, KeyError, TypeError, AttributeError):
        known = False
    if not known:
        raise ValueError(
            "The strategy multi-worker needs the environment variable TF_CONFIG to "
            f"list the workers and this one's place, e.g. {example}; got {text!r}."
        )
    return addresses, index


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _wait_for_workers(addresses: list[str], index: int) -> None:
    """Waits until all workers have come to this point.

    TensorFlow itself would wait for ever, or end the process. Each worker opens its
    port and looks for those of the others; then TensorFlow takes the port over.
    """
    port = _host_and_port(addresses[index])[1]
    with socket.socket() as own:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            own.bind(("", port))
        except (OSError, OverflowError) as error:
            raise OSError(
                f"Worker {index} cannot have its address {addresses[index]} of "
                f"TF_CONFIG ({error}); take a free port."
            ) from None
        own.listen(len(addresses))
        missing = [i for i in range(len(addresses)) if i != index]
        deadline = time.monotonic() + _START_SECONDS
        while missing := [i for i in missing if not _is_there(addresses[i])]:
            if time.monotonic() > deadline:
                names = ", ".join(f"{i} at {addresses[i]}" for i in missing)
                raise TimeoutError(
                    f"After {_START_SECONDS:.0f} s there is no answer from worker "
                    f"{names}; start all workers, with the same TF_CONFIG."
                )
            time.sleep(0.2)


def _is_there(address: str) -> bool:
    try:
        with socket.create_connection(_host_and_port(address), timeout=2.0):
            return True
    except (OSError, OverflowError):
        return False


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
