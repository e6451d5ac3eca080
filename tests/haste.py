"""TensorFlow set up for what tests do: most graphs run once or twice."""

import functools
import gc
import sys
import typing

__all__ = ["hurry"]


def hurry() -> None:
    """Sets this process up; it must precede any operation."""
    import tensorflow as tf

    # Two processes share two cores, and arrays are small: handing parts of them to
    # threads was an eighth of all CPU time.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    # Most of a test's time goes into making graphs that run once or twice. Improving
    # them first took a fifth of it.
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    # Graphs are many objects, and the collector looks through all that are alive, of
    # which a process of tests has more and more.
    gc.set_threshold(100_000, 20, 10)
    # TensorFlow asks whether values have what a protocol names, for each operation.
    # From 3.12 on Python keeps the names; before, a fiftieth of all time goes there.
    if sys.version_info < (3, 12):
        typing._get_protocol_attrs = functools.cache(typing._get_protocol_attrs)
    _leave_pipelines_untuned()
    _name_no_origins()


def _leave_pipelines_untuned():
    """Turns tf.data's tuner off, as `data.training_batches` does.

    It sleeps twice as long each time, up to a minute, and of several replicas does not
    hear that its iterator is to go: whoever frees one waits, with Python's lock.
    """
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    finish = tf.data.Dataset._apply_debug_options
    tf.data.Dataset._apply_debug_options = lambda dataset: finish(
        dataset.with_options(options)
    )


def _name_no_origins():
    """Gives all operations one origin, in place of the stack that each was made in.

    Taking it, and making a table of all frames whenever a function is first run, is an
    eighth of the tests' time. It serves messages of TensorFlow alone, which then do not
    say which line of Python an operation comes from.
    """
    from tensorflow.python.util import tf_stack

    here = tf_stack.extract_stack()
    tf_stack.extract_stack = lambda stacklevel=1: here
