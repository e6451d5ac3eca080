"""Moving averages of the weights: validated and saved, never taken for the weights."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_training_engine import (
    FLOATS,
    batches,
    largest_difference,
    plain,
    tiny,
    weights,
)
from test_update import MyAdam

from aef_tfp.callbacks import AveragedWeights, Checkpoints, CheckpointStore
from aef_tfp.engine.update import FlatUpdate

TRAIN, HELD_OUT = FLOATS[:64], FLOATS[64:]
SwapEMAWeights = keras.callbacks.SwapEMAWeights


def averaging(kind=keras.optimizers.Adam, make=plain):
    return make(optimizer=kind(1e-2, use_ema=True, ema_momentum=0.8))


def fit(model, *callbacks, epochs=2, **arguments):
    return model.fit(
        batches(TRAIN),
        epochs=epochs,
        validation_data=batches(HELD_OUT),
        callbacks=list(callbacks),
        verbose=0,
        **arguments,
    ).history


def averages(model):
    return [a.numpy() for a in model.optimizer._model_variables_moving_average]


class Look(keras.callbacks.Callback):
    """Keeps the weights that the model has at the end of each epoch."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(weights(self.model))


@pytest.mark.parametrize(
    "swap", [None, SwapEMAWeights, lambda: SwapEMAWeights(swap_on_epoch=True)]
)
def test_kerass_own_callback_gives_what_keras_promises(swap):
    """As with an optimizer of which nothing here knows, weight by weight."""
    results = []
    for kind in (keras.optimizers.Adam, MyAdam):
        model, look = averaging(kind), Look()
        losses = fit(model, *([swap()] if swap else []), look)["val_loss"]
        results.append((losses, [*look.seen, weights(model)]))
        assert isinstance(model._update, FlatUpdate) == (kind is not MyAdam)
    (losses, seen), (expected_losses, expected) = results
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    for got, wanted in zip(seen, expected, strict=True):
        assert largest_difference(got, wanted) < 1e-5
    # Keras ends with the averages; those of the epoch before are others.
    assert largest_difference(seen[-1], averages(model)) < 1e-5
    assert largest_difference(seen[-1], seen[0]) > 1e-3


def test_validation_of_averages_leaves_the_training_alone():
    model, look = averaging(), Look()
    losses = fit(model, AveragedWeights(), look)["val_loss"]
    plain, other = averaging(), Look()
    raw_losses = fit(plain, other)["val_loss"]
    for one, two in zip(look.seen, other.seen, strict=True):
        assert largest_difference(one, two) == 0.0
    # The weights in training are back, and the averages are what was validated.
    assert largest_difference(weights(model), look.seen[-1]) == 0.0
    assert largest_difference(weights(model), averages(model)) > 1e-3
    assert not model.averages.are_in_model
    assert abs(losses[-1] / raw_losses[-1] - 1.0) > 1e-3
    with model.averages.in_model():
        assert largest_difference(weights(model), averages(model)) == 0.0
        loss = model.evaluate(batches(HELD_OUT), verbose=0, return_dict=True)["loss"]
    np.testing.assert_allclose(losses[-1], loss, rtol=1e-6)


class StopInValidation(keras.callbacks.Callback):
    """Ctrl-C in the middle of one, after somebody has asked for a checkpoint."""

    def __init__(self, checkpoints):
        super().__init__()
        self.checkpoints = checkpoints

    def on_test_batch_end(self, batch, logs=None):
        self.checkpoints.save()
        raise KeyboardInterrupt


def test_an_interrupted_validation_never_passes_averages_for_weights(tmp_path):
    model = averaging()
    checkpoints = Checkpoints(tmp_path, lambda epoch: 4 * (epoch + 1))
    stop = StopInValidation(checkpoints)
    with pytest.raises(KeyboardInterrupt):
        fit(model, AveragedWeights(), checkpoints, stop, epochs=1)
    assert not model.averages.are_in_model
    assert not CheckpointStore(tmp_path / "checkpoints").existing()
    plain = averaging()
    fit(plain, AveragedWeights(), epochs=1)
    # Another `fit` begins from the weights in training.
    for one in (model, plain):
        fit(one, AveragedWeights(), epochs=1)
    assert largest_difference(weights(model), weights(plain)) == 0.0


@pytest.mark.parametrize("callback", [AveragedWeights, SwapEMAWeights, None])
def test_the_best_model_is_what_was_validated(callback, tmp_path):
    model, look = averaging(), Look()
    checkpoints = Checkpoints(tmp_path, lambda epoch: 4 * (epoch + 1))
    callbacks = [callback()] if callback else []
    losses = fit(model, *callbacks, checkpoints, look)["val_loss"]
    assert np.argmin(losses) == 1
    best = keras.saving.load_model(tmp_path / "best.keras")
    loss = best.evaluate(batches(HELD_OUT), verbose=0, return_dict=True)["loss"]
    np.testing.assert_allclose(loss, losses[1], rtol=1e-6)
    # The checkpoint has the weights in training, and the averages beside them.
    restored = averaging()
    assert Checkpoints(tmp_path, lambda epoch: 8).restore(restored) == 8
    assert largest_difference(weights(restored), look.seen[1]) == 0.0
    assert largest_difference(averages(restored), averages(best)) == 0.0
    assert (largest_difference(weights(best), weights(restored)) > 1e-3) == bool(
        callback
    )


class Evaluate(keras.callbacks.Callback):
    """Looks at other data between two epochs, without averages."""

    def on_epoch_end(self, epoch, logs=None):
        self.model.evaluate(batches(TRAIN), verbose=0)


@pytest.mark.parametrize("callback", [AveragedWeights, SwapEMAWeights])
def test_what_a_callback_evaluates_in_between_is_no_validation(callback, tmp_path):
    model = averaging()
    checkpoints = Checkpoints(tmp_path, lambda epoch: 4 * (epoch + 1))
    losses = fit(model, callback(), Evaluate(), checkpoints)["val_loss"]
    assert np.argmin(losses) == 1
    best = keras.saving.load_model(tmp_path / "best.keras")
    assert largest_difference(weights(best), averages(model)) == 0.0


class LookAtValidated(Look):
    """What callbacks like `MarginalBits` see of the model."""

    def on_epoch_end(self, epoch, logs=None):
        with self.model.averages.validated():
            super().on_epoch_end(epoch, logs)
        self.seen.append(averages(self.model))


@pytest.mark.parametrize("callback", [AveragedWeights, SwapEMAWeights])
def test_before_the_first_validation_averages_are_what_is_asked_for(callback):
    look = LookAtValidated()
    fit(averaging(), callback(), look, validation_freq=2)
    for seen, expected in zip(look.seen[::2], look.seen[1::2], strict=True):
        assert largest_difference(seen, expected) == 0.0
    # And never where nobody has them validated.
    fit(averaging(), look := LookAtValidated(), validation_freq=2)
    assert largest_difference(*look.seen[-2:]) > 1e-3


def test_a_fit_that_has_nothing_left_to_do_leaves_the_weights_alone():
    model, callback = averaging(), AveragedWeights()
    fit(model, callback)
    before = weights(model)
    assert largest_difference(before, averages(model)) > 1e-3
    fit(model, callback, initial_epoch=2)
    assert largest_difference(weights(model), before) == 0.0


def test_what_an_interrupted_fit_has_kept_is_forgotten():
    model, callback = averaging(), AveragedWeights()

    class InterruptSecond(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(model, callback, InterruptSecond())
    model.set_weights([weight + 0.25 for weight in model.get_weights()])
    before = weights(model)
    fit(model, callback, initial_epoch=2)
    assert largest_difference(weights(model), before) == 0.0


@pytest.mark.parametrize("own", [True, False])
def test_kerass_callbacks_keep_what_the_end_of_an_epoch_has(own, tmp_path):
    """As the page on long runs says."""
    model, path = averaging(), tmp_path / "best.keras"
    swap = AveragedWeights() if own else SwapEMAWeights(swap_on_epoch=True)
    save = keras.callbacks.ModelCheckpoint(path, save_best_only=True)
    losses = fit(model, swap, save)["val_loss"]
    best = keras.saving.load_model(path)
    loss = best.evaluate(batches(HELD_OUT), verbose=0, return_dict=True)["loss"]
    assert (abs(loss / min(losses) - 1.0) < 1e-5) == (not own)


def test_checkpoints_refuse_weights_that_are_elsewhere(tmp_path):
    checkpoints = Checkpoints(tmp_path, lambda epoch: 4 * (epoch + 1))
    with pytest.raises(ValueError, match=r"\(swap_on_epoch=True\) has taken the wei"):
        fit(averaging(), SwapEMAWeights(swap_on_epoch=True), checkpoints)


def test_two_callbacks_do_not_both_exchange_the_weights():
    model = averaging()
    model.averages.are_validated = True
    with pytest.raises(ValueError, match="would both exchange weights and averages"):
        fit(model, AveragedWeights(), SwapEMAWeights())
    # What a `fit` before this one validated says nothing of its own validations.
    assert not model.averages.are_validated


def test_layers_frozen_after_compile_are_refused():
    model = averaging()
    model.encoder.trainable = False
    with pytest.raises(ValueError, match="Layers were frozen since the model was comp"):
        fit(model)


def test_two_replicas_average_alike(mirrored):
    single = averaging(make=tiny)
    with mirrored.scope():
        several = averaging(make=tiny)
    for model in (single, several):
        model.adapt(FLOATS)
        fit(model, AveragedWeights())
    assert largest_difference(averages(single), averages(several)) < 1e-4
    assert largest_difference(weights(single), weights(several)) < 1e-4
    assert largest_difference(weights(single), averages(single)) > 1e-3


class Interrupt(keras.callbacks.Callback):
    def on_test_batch_end(self, batch, logs=None):
        raise KeyboardInterrupt


def test_weights_set_after_an_interrupted_validation_stay():
    model = plain(
        optimizer=keras.optimizers.SGD(0.0, use_ema=True, ema_momentum=0.8),
        run_eagerly=True,
    )
    fit(model, epochs=1)
    for average in model.optimizer._model_variables_moving_average:
        average.assign_add(tf.ones_like(average))
    before = weights(model)
    with pytest.raises(KeyboardInterrupt):
        fit(model, AveragedWeights(), Interrupt(), epochs=1)
    assert not model.averages.are_in_model
    assert largest_difference(weights(model), before) == 0.0
    model.set_weights([weight + 0.25 for weight in model.get_weights()])
    before = weights(model)
    fit(model, AveragedWeights(), epochs=1)
    assert largest_difference(weights(model), before) == 0.0


@pytest.mark.parametrize("is_first", [True, False])
def test_the_best_weights_that_were_restored_stay(is_first):
    model = averaging()
    stop = keras.callbacks.EarlyStopping(
        monitor="val_loss", mode="max", patience=1, restore_best_weights=True
    )
    own = AveragedWeights()
    fit(model, *([own, stop] if is_first else [stop, own]), epochs=3)
    for weight, value in zip(model.get_weights(), stop.best_weights, strict=True):
        np.testing.assert_array_equal(weight, value)
