"""What a flow of the user's must not be, found when a model is built."""

from typing import Any

import keras
import tensorflow as tf

from aef_tfp.networks.advice import refuse_half_precision

__all__ = ["check_flow_of_user"]


def check_flow_of_user(flow: keras.layers.Layer, event_size: int) -> None:
    """Refuses a flow whose bijector does not follow the weights of its layer.

    Args:
        flow: A layer with a `.bijector` over vectors.
        event_size: Number of their entries.

    Raises:
        ValueError: If the bijector has variables that the layer does not own, which
            nothing would train or save, or does not depend on a weight of the layer
            (`tfb.Scale(self.w)` copies the value of a Keras variable), or the layer
            computes in float16.
    """
    refuse_half_precision("flow", flow)
    x = tf.zeros([2, event_size], flow.variable_dtype)
    # The layer may make its weights at the first call.
    flow.bijector.inverse(x)
    with tf.GradientTape() as tape:
        bijector = flow.bijector
        value = bijector.inverse(tf.identity(x))
        log_det = bijector.inverse_log_det_jacobian(tf.identity(x), event_ndims=1)
        total = tf.reduce_sum(value) + tf.reduce_sum(log_det)
    owned = {id(variable.value) for variable in flow.variables}
    foreign = [v.name for v in bijector.variables if id(v) not in owned]
    if foreign:
        raise ValueError(
            f"The bijector of the flow {flow.name!r} has variables that the layer does "
            f"not own ({_listed(foreign)}), so that they would be neither trained nor "
            "saved; make them with self.add_weight in the layer."
        )
    variables = flow.trainable_variables
    # Of a variable on several replicas, the copy that was read here.
    local = tf.distribute.get_strategy().experimental_local_results
    gradients = tape.gradient(total, [local(v.value)[0] for v in variables])
    ignored = [v.path for v, g in zip(variables, gradients, strict=True) if g is None]
    if ignored:
        raise ValueError(
            f"The bijector of the flow {flow.name!r} does not depend on weights of the "
            f"layer ({_listed(ignored)}), so that they would never be trained; let "
            "`bijector` be a property that reads them, since bijectors of TFP copy the "
            "value of a Keras variable."
        )


def _listed(names: list[Any]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
