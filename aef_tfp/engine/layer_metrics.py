"""Metrics that a user's layers or subclass hold, and their names in the logs."""

import itertools
from typing import Any

import keras

__all__ = ["metrics_of_layers", "with_results"]

# Of training and of evaluation, in every model.
_NAMES_OF_LOGS = ("loss", "regularization_loss", "gradient_norm", "skipped_updates")


def metrics_of_layers(model: Any) -> list[keras.metrics.Metric]:
    """Returns the metrics of a model's layers, and of its user's subclass, each once.

    Args:
        model: A built `LikelihoodTrainer`. As in Keras, models inside of it keep
            theirs, which are for a training of their own.
    """
    found = {id(metric): metric for metric in model._metrics}
    for tracker in model.trackers:
        del found[id(tracker)]
    for layer in model._flatten_layers(include_self=False):
        if not isinstance(layer, keras.Model):
            found |= {id(metric): metric for metric in layer.metrics}
    return list(found.values())


def with_results(
    logs: dict[str, Any], metrics: list[keras.metrics.Metric]
) -> dict[str, Any]:
    """Returns logs and the results of metrics, with a number where a name is taken.

    Args:
        logs: What a model logs by itself.
        metrics: Those of its layers; a result may be a dict of several.
    """
    own = {*logs, *_NAMES_OF_LOGS}
    others: dict[str, Any] = {}
    for metric in metrics:
        result = metric.result()
        several = result if isinstance(result, dict) else {metric.name: result}
        for name, value in several.items():
            names = (f"{name}_{n}" if n else name for n in itertools.count())
            others[next(n for n in names if n not in {*own, *others})] = value
    return {**logs, **others}
