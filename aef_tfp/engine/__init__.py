"""How any model is trained: the step behind `fit`, and what makes it fast and exact."""

from aef_tfp.engine.trainer import LikelihoodTrainer

__all__ = ["LikelihoodTrainer"]
