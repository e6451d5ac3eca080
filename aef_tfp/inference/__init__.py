"""What p(x) is, where it is an integral: estimates over p(z, x), and their referee."""

from aef_tfp.inference.importance import ImportanceEstimate, importance_estimate
from aef_tfp.inference.laplace import Laplace, laplace_approximation
from aef_tfp.inference.referee import (
    AnnealedEstimate,
    Sandwich,
    annealed_log_prob,
    sandwich,
)

__all__ = [
    "AnnealedEstimate",
    "ImportanceEstimate",
    "Laplace",
    "Sandwich",
    "annealed_log_prob",
    "importance_estimate",
    "laplace_approximation",
    "sandwich",
]
