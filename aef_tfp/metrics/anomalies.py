"""How well the number of an image tells what a model knows from what it does not."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from aef_tfp.records import Record

__all__ = ["anomaly_records", "roc_area"]


def roc_area(normal: Any, anomalies: Any) -> tuple[float, float]:
    """Returns the area under the ROC curve of a score, and its standard error.

    It is the share of all pairs in which the normal one scores higher, where equal
    scores count half: 1 tells all pairs apart, 0.5 none, 0 all the wrong way round. The
    standard error is that of DeLong, DeLong and Clarke-Pearson (1988), over other
    events of both kinds. Where all pairs are in order, or none, it is 0 however few
    they are, and says nothing.

    Example:
        >>> roc_area([2.0, 3.0], [1.0, 2.0])[0]
        0.875

    Args:
        normal: Scores of normal events, `[n]`, n at least 2.
        anomalies: Scores of anomalies, `[m]`, m at least 2.

    Returns:
        The area, from 0 to 1, and its standard error.

    Raises:
        ValueError: If there are fewer than 2 of one kind, or a score is NaN.
    """
    scores = [np.asarray(x, np.float64) for x in (normal, anomalies)]
    for name, values in zip(("normal", "anomalies"), scores, strict=True):
        if values.ndim != 1 or len(values) < 2:
            raise ValueError(
                f"{name} must be at least 2 scores, [n], got the shape {values.shape}."
            )
        if np.isnan(values).any():
            count = np.count_nonzero(np.isnan(values))
            raise ValueError(f"{name} holds NaN in {count} of {len(values)} scores.")
    high, low = scores
    # Of each event, the share of the other kind that is on the right side of it.
    of_normal = _share_below(high, low)
    of_anomalies = 1.0 - _share_below(low, high)
    variances = (
        shares.var(ddof=1) / len(shares) for shares in (of_normal, of_anomalies)
    )
    return float(of_normal.mean()), math.sqrt(sum(variances))


def _share_below(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which share of others lies below each value; equal ones count half."""
    ordered = np.sort(others)
    below = np.searchsorted(ordered, values, "left")
    not_above = np.searchsorted(ordered, values, "right")
    return (below + not_above) / (2 * len(ordered))


def anomaly_records(
    normal: Sequence[Record], anomalies: Sequence[Record], *, against: str
) -> list[Record]:
    """Compares the numbers of single images, normal ones and anomalies.

    A log-likelihood, or an objective, is to be high for normal images, an error of
    reconstruction low. A likelihood is no measure of what is normal by itself: smooth
    images can be likelier than all that a model was trained on (Nalisnick et al.,
    ICLR 2019).

    Args:
        normal: Records of normal images, with their numbers per image.
        anomalies: The same of anomalies. What is NaN, where a network or a flow has
            left all numbers, counts as no density and an infinite error; the record's
            detail says of how many.
        against: What the anomalies are, for the estimator's description.

    Returns:
        Records `auroc_<name of the number>`, one for each number in nats and each
        error: the area under the ROC curve (see `roc_area`). The detail says where the
        standard error says nothing.

    Raises:
        ValueError: If there are fewer than 2 images of one kind.
    """
    others = {(record.name, record.proposal): record for record in anomalies}
    records = []
    for record in normal:
        other = others.get((record.name, record.proposal))
        sign = _sign(record.name)
        if not sign or other is None or record.per_image is None:
            continue
        scores = sign * other.per_image
        lost = np.isnan(scores)
        scores = np.where(lost, -np.inf, scores)
        area, error = roc_area(sign * record.per_image, scores)
        records.append(
            dataclasses.replace(
                record,
                name=f"auroc_{record.name}",
                value=area,
                standard_error=error,
                estimator="area under the ROC curve, DeLong's standard error, against "
                f"{other.num_images} {against}{_noise(record)}",
                detail=f"{record.name} {record.value:.5g}, and "
                f"{sign * scores.mean():.5g} of the {against}"
                + _lost(lost)
                + _unknown(area, error),
                anomalies=other.images,
                per_image=None,
            )
        )
    return records


def _noise(record: Record) -> str:
    """What noise the images have; that of other noise is another number."""
    _, noise, rest = record.estimator.partition(", noise of deviation ")
    return noise + rest


def _lost(lost: np.ndarray) -> str:
    """A note for the same line, if some numbers were NaN."""
    count = np.count_nonzero(lost)
    if not count:
        return ""
    of = f"{count} of these {len(lost)}"
    return f"; {of} could not be computed, and count as infinite"


def _unknown(area: float, error: float) -> str:
    """A note for the same line, if the standard error is 0 and says nothing."""
    if error:
        return ""
    told = {1.0: "all pairs are told apart", 0.0: "all pairs are the wrong way round"}
    how = told.get(area, "all images of a kind are ranked alike")
    return f"; {how}: the standard error of 0 does not say how sure that is"


def _sign(name: str) -> int:
    """1 where normal images have more of it, -1 where less, 0 for other numbers."""
    if name.endswith("log_prob"):
        return 1
    return -1 if name.endswith("_error") else 0
