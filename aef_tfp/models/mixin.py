"""What a mixin of models may take for granted when types are checked."""

from typing import TYPE_CHECKING

from aef_tfp.engine.trainer import LikelihoodTrainer

__all__ = ["Mixin"]

if TYPE_CHECKING:
    Mixin = LikelihoodTrainer
else:

    class Mixin:
        """Base of behaviour that two kinds of models share; not a model by itself."""
