"""What p(x) is, where it is an integral: estimates over p(z, y) and a proposal."""

from aef_tfp.inference.importance import ImportanceEstimate, importance_estimate
from aef_tfp.inference.laplace import Laplace, laplace_approximation

__all__ = [
    "ImportanceEstimate",
    "Laplace",
    "importance_estimate",
    "laplace_approximation",
]
