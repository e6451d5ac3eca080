"""Cases of aef_tfp, and of TFP's own bijector in its place; asked by speed.py."""

import functools
import shutil
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

from settings import (
    CLIP_NORM,
    EVALUATED,
    FIT_STEPS,
    NUM_IMPORTANCE,
    NUM_SAMPLES,
    PIPELINE_BATCHES,
    PRODUCT_SIZE,
    SETTINGS,
    STEPS,
    random_images,
)
from worker import Case, builders_of, serve

from aef_tfp.runs.config import RunConfig
from aef_tfp.terminal import import_quietly

tf = import_quietly("tensorflow")
training = import_quietly("aef_tfp.runs.training")

import keras  # noqa: E402
import numpy as np  # noqa: E402
from tensorflow_probability import bijectors as tfb  # noqa: E402

from aef_tfp import callbacks, flows  # noqa: E402
from aef_tfp.bijectors import affine_inverse  # noqa: E402
from aef_tfp.data import DatasetInfo, training_batches  # noqa: E402


@functools.cache
def built(name, steps=STEPS, jit_compile=True):
    """The model as the trainer builds it, adapted, and images; one for all cases."""
    setting = SETTINGS[name]
    config = RunConfig(
        model=setting.model,
        latent_dim=setting.latent_dim,
        networks=setting.networks,
        batch_size=setting.batch_size,
        learning_rate=setting.learning_rate,
        clip_norm=CLIP_NORM,
        steps_per_execution=steps,
        jit_compile=jit_compile,
    )
    info = DatasetInfo(
        name="noise",
        tfds_name="",
        description="Pixels of noise",
        image_shape=setting.image_shape,
        num_levels=256,
        logit_lambda=setting.logit_lambda,
    )
    model = training.build_model(config, info)
    images = random_images(setting)
    model.adapt(images)
    return model, images, setting


def stepper(name, **settings):
    """Returns a function that makes so many training steps, and the model."""
    model, images, setting = built(name, **settings)
    batches = iter(training_batches(images, setting.batch_size, seed=0))
    model.make_train_function()

    def run():
        logs = model.train_function(batches)
        return float(logs["loss"])

    return run, model


def train(name):
    run, model = stepper(name)
    parameters = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    return Case(run, STEPS, {"parameters": parameters})


def sample(name):
    model, _, _ = built(name)
    return Case(lambda: model.sample(NUM_SAMPLES, seed=0).numpy())


def sample_by_tfp(name):
    """The same model with TFP's bijector, which evaluates its network d times; XLA."""
    # Another object, since the sampling of the first is traced with our bijector.
    model, _, _ = built.__wrapped__(name)

    def plain(layer):
        return tfb.MaskedAutoregressiveFlow(
            bijector_fn=lambda y: affine_inverse(layer.made(y))
        )

    drawn = tf.function(lambda: model.sample(NUM_SAMPLES, seed=0), jit_compile=True)

    def run():
        with mock.patch.object(flows.Autoregressive, "bijector", property(plain)):
            drawn().numpy()

    return Case(run)


def evaluate(name):
    model, images, _ = built(name)
    images = images[:EVALUATED]
    return Case(lambda: model.marginal_log_prob(images, NUM_IMPORTANCE, seed=0).numpy())


def pipeline(name):
    setting = SETTINGS[name]
    images = random_images(setting, 60_000)
    batches = iter(training_batches(images, setting.batch_size, seed=0))

    def run():
        for _ in range(PIPELINE_BATCHES):
            next(batches)

    return Case(run, PIPELINE_BATCHES)


def products():
    left, right = (tf.random.uniform([PRODUCT_SIZE] * 2) for _ in range(2))
    product = tf.function(lambda: tf.matmul(left, right))
    return Case(lambda: product().numpy())


def loop(name):
    """Training steps alone, as many as `fit` makes."""
    model, images, setting = built(name)
    batches = training_batches(images, setting.batch_size, seed=0)
    model.make_train_function()

    def run():
        iterator = iter(batches)
        for _ in range(FIT_STEPS // STEPS):
            model.train_function(iterator)

    return Case(run, FIT_STEPS)


class StepClock(keras.callbacks.Callback):
    """Adds up what passes inside the step function of a `fit`."""

    def on_train_begin(self, logs=None):
        self.seconds = 0.0

    def on_train_batch_begin(self, batch, logs=None):
        self._start = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        self.seconds += time.perf_counter() - self._start


@functools.cache
def step_clock(name):
    """That of the last `fit`."""
    return StepClock()


def fit(name):
    """The same steps through `fit`, with what the trainer writes at each validation."""
    model, images, setting = built(name)
    batches = training_batches(images, setting.batch_size, seed=0)
    directory = tempfile.TemporaryDirectory()
    path = Path(directory.name)

    def iteration_of(epoch):
        return (epoch + 1) * FIT_STEPS

    def run():
        model.fit(
            batches,
            steps_per_epoch=FIT_STEPS,
            callbacks=[
                # The first to hear of a step's end, so what others do counts as theirs.
                step_clock(name),
                callbacks.History(path / "history.csv", iteration_of),
                callbacks.Checkpoints(path, iteration_of, monitor="loss"),
                callbacks.Scalars(path, images, setting.batch_size, iteration_of, 100),
            ],
            verbose=0,
        )
        # The next call is of the same iterations.
        shutil.rmtree(path / "checkpoints")

    run.directory = directory  # which is removed with the case
    return Case(run, FIT_STEPS)


def steps_of_fit(name):
    """No work of its own: how long the last `fit` was inside its steps."""
    return Case(lambda: None, FIT_STEPS, seconds=lambda: step_clock(name).seconds)


KINDS = {
    "train": train,
    "sample": sample,
    "sample by TFP": sample_by_tfp,
    "evaluate": evaluate,
    "pipeline": pipeline,
    "loop": loop,
    "fit": fit,
    "steps of fit": steps_of_fit,
}
CASES = {"products": products, **builders_of(KINDS, SETTINGS)}

if __name__ == "__main__":
    if sys.argv[1:2] == ["--first-step"]:
        compiled = "--no-jit-compile" not in sys.argv
        stepper(sys.argv[2], steps=1, jit_compile=compiled)[0]()
        print("done", flush=True)
    else:
        serve(CASES)
