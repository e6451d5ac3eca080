"""Image data: the table of data sets, their splits, and batches of them.

TensorFlow is imported on the first use of a function that needs it, so that the names
of the data sets cost nothing to read.
"""

from typing import TYPE_CHECKING, Any

from aef_tfp.data.loading import check_source, load_splits
from aef_tfp.data.registry import DATASETS, DatasetInfo, dataset_info
from aef_tfp.data.splits import Split, Splits

if TYPE_CHECKING:
    from aef_tfp.data.pipeline import evaluation_batches, training_batches

__all__ = [
    "DATASETS",
    "DatasetInfo",
    "Split",
    "Splits",
    "check_source",
    "dataset_info",
    "evaluation_batches",
    "load_splits",
    "training_batches",
]


def __getattr__(name: str) -> Any:
    """Imports `pipeline`, and TensorFlow with it, when one of its names is read."""
    if name in ("evaluation_batches", "training_batches"):
        from aef_tfp.data import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
