"""Schedules, optimizers, averaged weights, and what chooses the best model of a run."""

import dataclasses
import json
import os
import signal
from typing import get_args

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_command_line import refused, run_of
from test_interruptions import assert_equal_runs, at_iteration
from test_run import history, last_weights
from test_tensorboard import points
from test_update import made, updated

from aef_tfp import PartitionedAEF, saved
from aef_tfp.callbacks import Checkpoints, MarginalBits
from aef_tfp.engine.update import update_of
from aef_tfp.runs import building, config, defaults, evaluation, training
from aef_tfp.runs.commands import train as run
from aef_tfp.runs.config import RunConfig, RunSettings
from aef_tfp.runs.presets import get_preset

RUN = [
    "digits-aef-linear-2",
    "--networks=dense",
    "--core-flow=none",
    "--prior-flow=none",
    "--no-jit-compile",
    "--batch-size=32",
    "--steps-per-execution=1",
    "--iterations=8",
    "--validation-interval=4",
    "--save-interval=3",
    "--log-interval=1",
    "--num-samples=2",
    "--num-marginal-images=4",
    "--optimizer=nadam",
    "--schedule=cosine",
    "--warmup=3",
    "--learning-rate=0.01",
    "--ema=0.7",
    "--select=marginal",
]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "straight"
    assert run.main([*RUN, f"--run-dir={run_dir}"]) == 0
    return run_dir


@pytest.mark.usefixtures("training_alone")
def test_a_run_that_was_killed_and_stopped_ends_like_another(
    straight, tmp_path, monkeypatch
):
    run_dir = tmp_path / "stopped"

    class Killed(BaseException):
        pass

    def kill(self, batch, logs=None):
        raise Killed

    with monkeypatch.context() as patch:
        # In its first validation, with averages for weights; nothing runs after it.
        patch.setattr(training.Heartbeat, "on_test_batch_end", kill)
        with pytest.raises(Killed):
            run.main([*RUN, f"--run-dir={run_dir}"])
    assert [path.name for path in (run_dir / "checkpoints").iterdir()] == [
        "iteration-00000003"
    ]
    at_iteration(monkeypatch, 6, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert run.main([f"--resume={run_dir}"]) == 128 + signal.SIGTERM
    assert run.main([f"--resume={run_dir}"]) == 0
    assert_equal_runs(run_dir, straight)
    best = [saved.read_label(path / "best.keras") for path in (run_dir, straight)]
    assert best[0] == best[1]


def test_the_best_model_is_the_average_of_the_lowest_marginal(straight):
    rows = history(straight)
    name = "val_marginal_bits_per_dim"
    lowest = min(rows, key=lambda row: float(row[name]))
    label = saved.read_label(straight / "best.keras")
    assert label["iteration"] == int(lowest["iteration"]) == 8
    assert label[name] == pytest.approx(float(lowest[name]))
    best = keras.saving.load_model(straight / "best.keras")
    images = evaluation.load_run_splits(RunConfig.from_run(straight)).validation.images
    # Tuned after the training; a Laplace proposal is searched from what it draws.
    best.proposal_scales.clear()
    callback = MarginalBits(images)
    callback.set_model(best)
    assert callback.estimate() == pytest.approx(float(lowest[name]), rel=1e-5)
    # Of the last checkpoint, the averages and not the weights.
    optimizer = best.optimizer
    averages = [a.numpy() for a in optimizer._model_variables_moving_average]
    for weight, average in zip(best.trainable_weights, averages, strict=True):
        np.testing.assert_array_equal(weight.numpy(), average)
    trained = [value for key, value in last_weights(straight).items() if "optim" in key]
    assert any(
        value.shape == averages[0].shape and np.array_equal(value, averages[0])
        for value in trained
    )
    assert points(straight / "tensorboard" / "validation", name[4:])[-1] == (
        8,
        pytest.approx(float(rows[-1][name])),
    )


def test_the_learning_rate_is_that_of_the_schedule(straight):
    got = dict(points(straight / "tensorboard" / "train", "learning_rate"))
    # What the step after it has: three steps up from a third, then down to 0.
    expected = {
        step: 0.01 * (1 + 2 * step / 3) / 3
        if step < 3
        else 0.005 * (1 + np.cos(np.pi * (step - 3) / 5))
        for step in range(1, 9)
    }
    assert got == pytest.approx(expected, abs=1e-9)
    rates = [float(row["learning_rate"]) for row in history(straight)]
    assert rates == pytest.approx([expected[4], expected[8]], abs=1e-9)


def test_a_schedule_that_ends_is_not_moved(straight, capsys):
    before = (straight / "config.json").read_bytes()
    for iterations in (12, 6):
        assert run.main([f"--resume={straight}", f"--iterations={iterations}"]) == 1
        printed = capsys.readouterr().err
        assert f"The cosine schedule of {straight} ends at iteration 8, so" in printed
        assert f"stays that, got {iterations}; leave it out, or start a" in printed
        assert printed.count("\n") == 1
    assert (straight / "config.json").read_bytes() == before


@pytest.mark.parametrize("name", get_args(config.OptimizerName))
def test_every_optimizer_takes_a_step(name):
    settings = RunConfig(optimizer=name, learning_rate=0.01, schedule="cosine")
    optimizer = building._optimizer(settings)
    assert type(optimizer).__name__.lower() == name
    assert optimizer.global_clipnorm == settings.clip_norm
    assert not optimizer.use_ema
    variables = made()
    update = update_of(optimizer, variables)

    def step(gradients, weights):
        with update.around(gradients, weights):
            update.apply(gradients, weights)

    start = [v.numpy() for v in variables]
    values = updated(step, variables, num_steps=1)
    assert all((value != old).all() for value, old in zip(values, start, strict=True))


def test_optimizers_are_those_of_keras():
    exported = {
        name.lower()
        for name, kind in vars(keras.optimizers).items()
        if isinstance(kind, type) and issubclass(kind, keras.optimizers.Optimizer)
    }
    # Those that wrap others, or trust in weights that are not the model's.
    others = {"optimizer", "lossscaleoptimizer", "multioptimizer", "schedulefreeadamw"}
    # keras.optimizers.get knows no lamb, and masks are too much for Adafactor.
    assert exported - others - {"lamb", "adafactor"} == set(
        get_args(config.OptimizerName)
    )


def test_callbacks_that_cannot_work_say_so(tmp_path, digit_images):
    with pytest.raises(TypeError, match=r"images as an array, got .*Dataset"):
        MarginalBits(tf.data.Dataset.from_tensors(digit_images[:4]))
    with pytest.raises(ValueError, match=r"at least one .* shape \(0, 8, 8, 1\)"):
        MarginalBits(digit_images[:0])
    exact = PartitionedAEF((8, 8, 1), 2, num_levels=17)
    with pytest.raises(TypeError, match=r"estimate log p.x.: .* got PartitionedAEF"):
        MarginalBits(digit_images[:4]).set_model(exact)
    checkpoints = Checkpoints(tmp_path, lambda epoch: 4, monitor=MarginalBits.name)
    with pytest.raises(ValueError, match="not among the logs, loss, val_loss: watch"):
        checkpoints.on_epoch_end(0, {"val_loss": 1.0, "loss": 1.0})


def test_adafactor_is_told_of_what_masks_do_to_it():
    model = PartitionedAEF((8, 8, 1), 2, num_levels=17)
    with pytest.warns(UserWarning, match="Adafactor makes NaN"):
        model.compile("adafactor")


def test_a_constant_rate_may_warm_up_and_go_on():
    settings = RunConfig(warmup=4, learning_rate=0.01, iterations=20)
    rate = building._learning_rate(settings)
    values = [float(rate(step)) for step in (0, 1, 3, 4, 19, 500)]
    expected = [0.0025, 0.004375, 0.008125, 0.01, 0.01, 0.01]
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    assert building._learning_rate(RunConfig(learning_rate=0.01)) == 0.01


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--warmup=1500"], "warmup must be less than the iterations, 1500, got 1500."),
        (["--warmup=-1"], "warmup must be a finite number of at least 0, got -1"),
        (["--ema=1.0"], "ema must lie in [0, 1), got 1.0."),
        (["--schedule=linear"], "invalid choice 'linear'"),
        (["--optimizer=adan"], "invalid choice 'adan'"),
        (["digits-vae-8", "--select=elbo"], "invalid choice 'elbo'"),
        (
            ["--select=marginal"],
            "select is 'marginal', but the likelihood of an aef-center is exact: l",
        ),
        (["digits-autoencoder-8", "--select=marginal"], "an autoencoder has no likeli"),
        (
            ["--noise-std=0.1", "--denoising-target=clean"],
            "an aef-center has densities of noisy images only: leave it out",
        ),
        (["--select=joint"], "--select (the likelihood of an aef-center is exact)"),
    ],
)
def test_what_cannot_be_is_refused(argv, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in refused("run", argv, capsys)


def test_a_cosine_comes_to_its_end_unless_told_otherwise():
    def patience(*argv):
        return run.read_command(argv).arguments.config.patience

    assert patience() == 500
    assert patience("--schedule=cosine") == 0
    assert patience("--schedule=cosine", "--patience=700") == 700
    settings = dataclasses.replace(get_preset("folder-vae-8"), schedule="cosine")
    chosen, notes = defaults.choose(settings, 320, (64, 64, 3))
    assert chosen.patience == 0
    assert any("the learning rate falls until the end" in note for note in notes)
    told = training._plan(RunConfig(schedule="cosine", patience=700))
    assert told == [
        "--patience 700 may end the run before the cosine schedule has brought the "
        "learning rate down; 0 never does"
    ]
    assert not training._plan(RunConfig(patience=700, ema=0.999))
    assert (
        "over some 1,000 it" in training._plan(RunConfig(ema=0.999, iterations=99))[0]
    )


def test_what_runs_at_once_is_told_where_it_is_not_what_was_asked():
    asked = RunConfig(validation_interval=100, steps_per_execution=64, log_interval=15)
    assert training._plan(asked) == [
        "--steps-per-execution 64 does not divide the validation interval, 100: 4 run "
        "at once",
        "--log-interval 15 is no multiple of the 4 iterations that run at once: "
        "TensorBoard has every 16",
    ]


def test_an_older_run_has_none_of_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = run_of("run") / "config.json"
    known = json.loads(path.read_text())
    for name in ("optimizer", "schedule", "warmup", "ema", "select"):
        del known[name]
    path.write_text(json.dumps(known))
    older = RunConfig.from_run("run")
    assert older == RunConfig()
    assert isinstance(building._optimizer(older), keras.optimizers.Adam)
    assert RunSettings().select == "joint"
