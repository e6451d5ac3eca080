"""What TensorFlow's own checkpoints find in a layer."""

from typing import Any

__all__ = ["InCheckpoints"]


class InCheckpoints:
    """A Keras layer all of whose weights `tf.train.Checkpoint` has (mixin).

    Keras tells it of what is an attribute, and nothing of layers in a list: a flow of
    flows would be left out without a word, and stay at its start when it is restored.
    """

    weights: Any

    def _trackable_children(self, save_type: str = "checkpoint", **kwargs: Any) -> Any:
        children = super()._trackable_children(save_type, **kwargs)  # type: ignore[misc]
        if save_type != "checkpoint":
            return children
        weights = {f"weight_{i}": weight for i, weight in enumerate(self.weights)}
        return {**children, **weights}
