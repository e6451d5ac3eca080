"""What p(x) is, by annealed importance sampling: the referee of other estimates."""

from aef_tfp.inference.annealed import (
    Annealed,
    annealed_log_weights,
    sigmoidal_schedule,
    tuned_step_sizes,
)
from aef_tfp.inference.referee import (
    AnnealedEstimate,
    Sandwich,
    annealed_log_prob,
    sandwich,
)

__all__ = [
    "Annealed",
    "AnnealedEstimate",
    "Sandwich",
    "annealed_log_prob",
    "annealed_log_weights",
    "sandwich",
    "sigmoidal_schedule",
    "tuned_step_sizes",
]
