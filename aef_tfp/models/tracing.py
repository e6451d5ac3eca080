"""How functions become graphs."""

import functools

import tensorflow as tf

__all__ = ["traced"]

# Nothing here branches or loops on tensors by Python statements, and Keras rewrites no
# layer either: AutoGraph would find nothing to do, and take seconds for it.
traced = functools.partial(tf.function, reduce_retracing=True, autograph=False)
