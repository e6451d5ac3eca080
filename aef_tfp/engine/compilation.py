"""What `compile` is told, and what it refuses."""

import warnings
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from aef_tfp.engine.arguments import checked_count
from aef_tfp.engine.averages import Averages
from aef_tfp.engine.clipping import updating_optimizer
from aef_tfp.engine.tracing import forget_graphs
from aef_tfp.engine.update import update_of

__all__ = ["Compilation"]

# Methods of `keras.Model` in whose place the engine has its own.
_NEVER_CALLED = ("train_step", "test_step", "compute_loss", "compute_metrics")

# Of a type checker, a mixin has what `keras.Model` has.
_Mixed: Any = keras.Model if TYPE_CHECKING else object


class Compilation(_Mixed):
    """How a `LikelihoodTrainer` is compiled (a mixin of it)."""

    def compile(
        self,
        optimizer: Any = "adam",
        *,
        steps_per_execution: int = 1,
        jit_compile: Any = "auto",
        run_eagerly: bool = False,
        max_skipped_updates: int = 20,
        rematerialize: bool = False,
        **kwargs: Any,
    ) -> None:
        """Configures training. The model is its own loss, so none is passed.

        Args:
            optimizer: Keras optimizer. Its `global_clipnorm`, `clipnorm` or `clipvalue`
                applies to the gradient summed over replicas.
            steps_per_execution: Steps per call of the compiled training function.
            jit_compile: Whether to compile the step, and sampling, with XLA; `"auto"`
                does on a GPU if all layers allow it. With more than one replica the
                step is never compiled.
            run_eagerly: Run the step without `tf.function`, for debugging.
            max_skipped_updates: Non-finite updates in a row after which `fit` raises
                `FloatingPointError`.
            rematerialize: Whether residual blocks compute their inner activations once
                more for the gradient instead of keeping them: a third less memory.
            **kwargs: None; `loss`, `metrics` and the like are refused.

        Raises:
            ValueError: If a count is below 1, there are other arguments, the optimizer
                was built for another model, or not made in the scope of several
                replicas, or a subclass has a step or loss of its own.
        """
        if kwargs:
            raise ValueError(
                f"compile takes no {next(iter(kwargs))!r}: the model brings its own "
                "objective and metrics; pass an optimizer."
            )
        if optimizer is None:
            raise ValueError("compile needs an optimizer, got None.")
        self._refuse_steps_of_others()
        checked_count("max_skipped_updates", max_skipped_updates)
        checked_count("steps_per_execution", steps_per_execution)
        super().compile(
            optimizer=optimizer,
            steps_per_execution=steps_per_execution,
            jit_compile=jit_compile,
            run_eagerly=run_eagerly,
        )
        # A user's own kind of it may do better.
        if type(updating_optimizer(self.optimizer)) is keras.optimizers.Adafactor:
            warnings.warn(
                "Adafactor makes NaN of a matrix where a whole row and a whole column "
                "of its gradient are zero, as masked layers (MAF) and ReLUs bring "
                "about; take another optimizer.",
                stacklevel=2,
            )
        # What came of "auto" may be another on another machine.
        self._jit_compile_by_itself = (
            self.jit_compile if jit_compile == "auto" else None
        )
        self._max_skipped_updates = max_skipped_updates
        self._rematerialize = rematerialize
        steps = self.optimizer.variables[0].value
        several = self.distribute_strategy.num_replicas_in_sync > 1
        if several and not isinstance(steps, tf.distribute.DistributedValues):
            raise ValueError(
                f"The optimizer {self.optimizer.name!r} was made outside of the "
                "strategy and would count every step once per replica; make it inside "
                "strategy.scope()."
            )
        # A compiled step cannot create variables, and a checkpoint wants them there.
        with self.distribute_strategy.scope():
            self._update = update_of(self.optimizer, self.trainable_variables)
        self.averages = Averages(self.optimizer)
        # They may be of layers as they were (`enable_lora`), and Keras lets its own go.
        forget_graphs(self)

    def _refuse_steps_of_others(self) -> None:
        for name in _NEVER_CALLED:
            if getattr(type(self), name) is not getattr(keras.Model, name):
                raise ValueError(
                    f"{type(self).__name__}.{name} would never be called, since the "
                    "engine has its own steps: override objective(x, seed), or train "
                    "in a loop of your own."
                )

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        """Quantizes the layers; arguments as in `keras.Model.quantize`."""
        super().quantize(*args, **kwargs)
        forget_graphs(self)

    def get_compile_config(self):
        """Returns what `compile_from_config` needs; None before `compile`."""
        if not self.compiled:
            return None
        by_itself = self.jit_compile == self._jit_compile_by_itself
        return {
            "optimizer": keras.optimizers.serialize(self.optimizer),
            "steps_per_execution": self.steps_per_execution,
            "jit_compile": "auto" if by_itself else self.jit_compile,
            "run_eagerly": self.run_eagerly,
            "max_skipped_updates": self._max_skipped_updates,
            "rematerialize": self._rematerialize,
        }

    def compile_from_config(self, config):
        """Compiles with a rebuilt optimizer, whose state is loaded next."""
        # As Keras does; `keras.optimizers.deserialize` knows no Lamb.
        optimizer = keras.saving.deserialize_keras_object(config["optimizer"])
        self.compile(**{**config, "optimizer": optimizer})

    def _check_optimizer(self) -> None:
        """Refuses what has changed since the model was compiled.

        Raises:
            ValueError: If there are weights to train, an optimizer, or settings of it,
                that were not there.
        """
        if self._update.optimizer is not self.optimizer:
            raise ValueError(
                "The model has another optimizer than it was compiled with: compile it "
                "again, model.compile(optimizer)."
            )
        variables = self.trainable_variables
        if not self._update.knows(variables):
            raise ValueError(
                "Layers were unfrozen since the model was compiled, and the optimizer "
                "does not know their weights: compile it again, with a new optimizer."
            )
        averaged = self.averages.weights
        if averaged and list(map(id, averaged)) != list(map(id, variables)):
            # Keras would give the averages, one after the other, to other weights.
            raise ValueError(
                "Layers were frozen since the model was compiled, and the optimizer "
                "averages their weights: compile it again, with a new optimizer."
            )
        if late := self._update.came_too_late():
            raise ValueError(
                f"{late} was set after the model was compiled, which is too late: "
                "compile it again, with a new optimizer."
            )
        several = self.distribute_strategy.num_replicas_in_sync > 1
        steps = updating_optimizer(self.optimizer).gradient_accumulation_steps
        if several and steps:
            raise ValueError(
                f"gradient_accumulation_steps works on one replica only, got {steps} "
                f"with {self.distribute_strategy.num_replicas_in_sync} replicas; lower "
                "the batch size per replica instead."
            )

    def _constants(self) -> tuple[Any, ...]:
        """What the graph of a step does not read again: users may set it meanwhile."""
        optimizers = self.optimizer, updating_optimizer(self.optimizer)
        return (
            # Layers that were frozen stay as they are; some assign without weights.
            tuple(map(id, self.trainable_variables)),
            tuple(layer.trainable for layer in self._flatten_layers()),
            # A number is kept in the same variable, a schedule is not.
            id(optimizers[1]._learning_rate),
            *(_plain_values(optimizer) for optimizer in optimizers),
        )


def _plain_values(optimizer: Any) -> tuple[tuple[str, Any], ...]:
    """Settings of an optimizer, also of one whose configuration does not say all."""
    kinds = (bool, int, float, str, type(None))
    return tuple((k, v) for k, v in vars(optimizer).items() if isinstance(v, kinds))
