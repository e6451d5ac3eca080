"""What a model trains on, by its true name."""

import dataclasses
from collections.abc import Callable
from typing import Any

__all__ = ["Likelihood"]


@dataclasses.dataclass(frozen=True)
class Likelihood:
    """A density of events, or what stands for it in training.

    Args:
        name: Of the model's method: `"log_prob"`, `"joint_log_prob"` or `"elbo"`.
        function: From events and a seed to nats per event, `[batch]`.
        prefix: Of the names of its numbers, which only an exact one has without:
            `joint_bits_per_dim`.
        description: In words, for records.
        is_noisy: Whether it depends on noise of the model's own, beside that of
            dequantization.
    """

    name: str
    function: Callable[..., Any]
    prefix: str
    description: str
    is_noisy: bool = False

    @property
    def is_exact(self) -> bool:
        """Whether it is log p(x) itself."""
        return not self.prefix

    @property
    def bits_per_dim_name(self) -> str:
        """Name of its bits per dimension in logs and records."""
        return f"{self.prefix}bits_per_dim"
