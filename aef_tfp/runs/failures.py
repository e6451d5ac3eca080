"""What a failed training says: the cause in one line, and what is saved."""

import contextlib
import re
import shlex
import signal
from collections.abc import Iterator

import tensorflow as tf

from aef_tfp.callbacks import Checkpoints

__all__ = [
    "EvaluationInterrupted",
    "TrainingFailed",
    "explained",
    "interrupted_when_trained",
]


class EvaluationInterrupted(KeyboardInterrupt):
    """An interruption of the evaluation: the training before it is done, and saved.

    Args:
        signal_number: What asked for it, as in the module `signal`.
    """

    def __init__(self, signal_number: int):
        super().__init__("interrupted in the evaluation; the training is done")
        self.signal_number = signal_number


@contextlib.contextmanager
def interrupted_when_trained() -> Iterator[None]:
    """Within it, the training is done.

    Raises:
        EvaluationInterrupted: In place of another KeyboardInterrupt.
    """
    try:
        yield
    except KeyboardInterrupt as interruption:
        number = getattr(interruption, "signal_number", signal.SIGINT)
        raise EvaluationInterrupted(number) from interruption


class TrainingFailed(RuntimeError):  # noqa: N818 - as FloatingPointError's sibling
    """TensorFlow could not go on; the message says why, and what is saved."""


@contextlib.contextmanager
def explained(checkpoints: Checkpoints, chief: bool) -> Iterator[None]:
    """Adds to an error where the last good state is, and what can be done with it.

    Args:
        checkpoints: What the run saves.
        chief: Whether this process is the one that saves.

    Raises:
        FloatingPointError: In place of one within.
        TrainingFailed: In place of an error of TensorFlow's.
    """
    try:
        yield
    except (FloatingPointError, tf.errors.OpError) as error:
        path = checkpoints.store.newest_path()
        kept = "There is no checkpoint yet"
        if not chief:
            kept = "Checkpoints are with the first worker"
        elif path is not None:
            kept = f"The last good checkpoint is {path}"
        stopped = f"The run stopped after iteration {checkpoints.iteration}:"
        if isinstance(error, FloatingPointError):
            raise FloatingPointError(
                f"{stopped} {error} {kept}; resumed, the run would take the same steps "
                "once more, so start a new one."
            ) from None
        resume = shlex.join(["--resume", str(checkpoints.run_dir)])
        raise TrainingFailed(
            f"{stopped} {_reason(error)}. {kept}; {resume} goes on."
        ) from error


def _reason(error: tf.errors.OpError) -> str:
    """The one line that matters of TensorFlow's many."""
    if isinstance(error, (tf.errors.UnavailableError, tf.errors.AbortedError)):
        return "another worker is gone; start all of them again"
    message = re.sub(r"\{\{.*?\}\} *", "", error.message)
    lines = [line.strip() for line in message.splitlines()]
    telling = [
        line for line in lines if re.match(r"[A-Za-z.]*(Error|Exception): ", line)
    ]
    lines = [line for line in lines if line and not line.startswith(("[[", "File "))]
    return (telling or lines or [type(error).__name__])[0].rstrip(".")
