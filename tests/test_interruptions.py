"""What a run survives: signals, damaged files, full disks, bad data, other devices."""

import contextlib
import csv
import json
import math
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_run import SMALL, history, last_weights
from test_training_engine import FLOATS, batches, plain, weights

from aef_tfp import distribution, files, saved
from aef_tfp.callbacks import Checkpoints, CheckpointStore, History, StopOnSignal
from aef_tfp.runs import training
from aef_tfp.runs.commands import train as run
from aef_tfp.terminal import as_typed

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "trainers"))
import launch  # noqa: E402

# Without flows: `test_run` resumes with some.
RUN = [part for part in SMALL if not part.startswith("--flow")]
RUN += ["--core-flow=none", "--prior-flow=none", "--networks=dense"]
RUN += ["--iterations=10", "--validation-interval=4", "--save-interval=3"]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """An uninterrupted run of 10 iterations, a validation after each 4."""
    run_dir = tmp_path_factory.mktemp("runs") / "straight"
    assert run.main([*RUN, f"--run-dir={run_dir}"]) == 0
    return run_dir


def assert_equal_runs(run_dir, other):
    assert history(run_dir) == history(other)
    expected, got = last_weights(other), last_weights(run_dir)
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)


def at_iteration(monkeypatch, iteration, action):
    """Does something in the middle of training, once, when the step is done."""
    original = StopOnSignal.on_train_batch_end

    def on_train_batch_end(self, batch, logs=None):
        if self.checkpoints.iteration == iteration:
            monkeypatch.setattr(StopOnSignal, "on_train_batch_end", original)
            action()
        original(self, batch, logs)

    monkeypatch.setattr(StopOnSignal, "on_train_batch_end", on_train_batch_end)


# Between two validations, and just before one, which is still made.
@pytest.mark.parametrize(
    ("number", "iteration", "saved"),
    [(signal.SIGTERM, 6, 6), (signal.SIGINT, 8, 8)],
)
@pytest.mark.usefixtures("training_alone")
def test_a_signal_saves_and_the_run_goes_on_as_if_nothing_had_been(
    number, iteration, saved, straight, tmp_path, monkeypatch, capfd
):
    former = signal.getsignal(signal.SIGINT)
    run_dir = tmp_path / "stopped"
    at_iteration(monkeypatch, iteration, lambda: os.kill(os.getpid(), number))
    words = [*RUN, "--strategy=none", f"--run-dir={run_dir}"]
    assert run.main(words) == 128 + number
    resume = f"--resume {run_dir} --strategy none"
    error = capfd.readouterr().err
    assert f"Saved at iteration {saved} of 10; go on with: " in error
    assert resume in error
    validated = [row["iteration"] for row in history(run_dir)]
    assert validated == ["4", "8"][: saved // 4]
    capfd.readouterr()
    assert run.main(resume.split()) == 0
    assert f"going on from iteration {saved}\n" in capfd.readouterr().out
    assert_equal_runs(run_dir, straight)
    # Handlers are given back. A shell's background process begins with SIGINT ignored.
    assert signal.getsignal(signal.SIGINT) == former


def test_the_newest_checkpoints_are_kept(straight):
    names = sorted(path.name for path in (straight / "checkpoints").iterdir())
    # Written at 3, 4 (validation), 6, 8 (validation), 9 and 10 (the end).
    assert names == [f"iteration-{i:08d}" for i in (8, 9, 10)]


def flip_a_byte(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut_short(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("model.weights.h5", flip_a_byte, "is not as it was written"),
        ("model.weights.h5", cut_short, "is not as it was written"),
        ("state.json", flip_a_byte, "is not as it was written"),
        ("SHA256SUMS", cut_short, "is not as it was written|missing or unreadable"),
        ("model.weights.h5", Path.unlink, "is missing"),
        ("SHA256SUMS", Path.unlink, "is missing or unreadable"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over(name, damage, message, straight, tmp_path):
    directory = shutil.copytree(straight / "checkpoints", tmp_path / "checkpoints")
    store = CheckpointStore(directory)
    damage(directory / "iteration-00000010" / name)
    assert store.newest_path() == directory / "iteration-00000009"
    config = training.RunConfig.from_run(straight)
    model = training.build_model(config, run_splits(config).info)
    with pytest.warns(UserWarning, match=rf"iteration-00000010 is damaged .*{message}"):
        iteration, state = store.read(model)
    assert iteration == 9
    assert state["best_iteration"] in (4, 8)
    assert int(model.optimizer.iterations.numpy()) == 9


def run_splits(config):
    return training.load_run_splits(config, data_dir=None, download=False)


@pytest.mark.usefixtures("training_alone")
def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(straight, tmp_path):
    run_dir = shutil.copytree(straight, tmp_path / "damaged")
    flip_a_byte(run_dir / "checkpoints" / "iteration-00000010" / "model.weights.h5")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert run.main([f"--resume={run_dir}"]) == 0
    assert_equal_runs(run_dir, straight)
    assert CheckpointStore(run_dir / "checkpoints").newest_path().name.endswith("10")


def test_a_run_without_a_whole_checkpoint_is_not_started_anew(
    straight, tmp_path, capsys
):
    run_dir = shutil.copytree(straight, tmp_path / "damaged")
    before = (run_dir / "history.csv").read_text()
    for path in (run_dir / "checkpoints").glob("*/model.weights.h5"):
        cut_short(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert run.main([f"--resume={run_dir}"]) == 1
    assert "All 3 checkpoints in" in capsys.readouterr().err
    assert (run_dir / "history.csv").read_text() == before


def test_an_empty_run_directory_says_what_it_lacks(tmp_path, capsys):
    assert run.main([f"--resume={tmp_path}"]) == 1
    assert "holds no run: it has no config.json" in capsys.readouterr().err


def test_a_row_cut_short_or_of_later_is_dropped(tmp_path):
    path = tmp_path / "history.csv"
    path.write_text("epoch,iteration,loss\n0,4,2.5\n1,8,2.25\n2,12,2.0\n3,1")
    History.keep_until(path, 8)
    with path.open() as file:
        assert [row["iteration"] for row in csv.DictReader(file)] == ["4", "8"]


@contextlib.contextmanager
def full_disk(num_bytes=20_000):
    """The kernel refuses files above a size, as it does on a full disk."""
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, former[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
        signal.signal(signal.SIGXFSZ, handler)


def all_values(model):
    model.optimizer.build(model.trainable_variables)
    return [v.numpy() for v in (*model.variables, *model.optimizer.variables)]


def test_a_checkpoint_from_a_saved_model_has_what_the_model_has(tmp_path, monkeypatch):
    model = plain()
    model.adapt(FLOATS)
    model.fit(FLOATS, batch_size=64, verbose=0)  # moments of the optimizer, too
    best = tmp_path / "best.keras"
    model.save(best)
    store = CheckpointStore(tmp_path / "checkpoints")
    # They are taken from there, not written anew.
    monkeypatch.setattr(model, "save_weights", None)
    store.write(model, 7, {"note": 1}, saved=best)
    other = plain()
    assert store.read(other) == (7, {"note": 1})
    for value, expected in zip(all_values(other), all_values(model), strict=True):
        np.testing.assert_array_equal(value, expected)


def watching(directory, monitor):
    """Checkpoints of a model whose epochs are one step long."""
    model = plain()
    model.adapt(FLOATS)
    checkpoints = Checkpoints(directory, lambda epoch: epoch + 1, monitor=monitor)
    checkpoints.set_model(model)
    return checkpoints


def test_the_best_model_is_not_written_twice(tmp_path):
    checkpoints = watching(tmp_path, "loss")
    sources = []
    write = checkpoints.store.write
    checkpoints.store.write = lambda *args: sources.append(args[-1]) or write(*args)
    for epoch, loss in enumerate([3.0, 1.0, 2.0]):
        checkpoints.on_epoch_begin(epoch)
        checkpoints.on_epoch_end(epoch, {"loss": loss})
    assert sources == [tmp_path / "best.keras", tmp_path / "best.keras", None]


def test_a_training_goes_on_while_its_loss_is_finite(tmp_path):
    checkpoints = watching(tmp_path, "other")
    written = []
    checkpoints.store.write = lambda *args: written.append(args[1])
    logs = {"loss": 1.0, "val_loss": 1.0}
    checkpoints.on_epoch_end(0, {"other": 2.0, **logs})
    warning = (
        "other is nan at iteration .*, though the loss is finite; the best model, "
    )
    for epoch in range(1, 5):
        with pytest.warns(UserWarning, match=warning):
            checkpoints.on_epoch_end(epoch, {"other": math.nan, **logs})
    assert written == [1, 2, 3, 4, 5]
    assert saved.read_label(checkpoints.best_path)["iteration"] == 1
    # One whose loss is not ends as before, whatever its mean over the training was.
    logs["val_loss"] = math.inf
    for epoch in (5, 6):
        with pytest.warns(UserWarning, match=r"other is nan at iteration .; the best"):
            checkpoints.on_epoch_end(epoch, {"other": math.nan, **logs})
    with pytest.raises(FloatingPointError, match="other was not finite in 3 valida"):
        checkpoints.on_epoch_end(7, {"other": math.nan, **logs})
    assert len(written) == 5


def test_a_training_that_has_chosen_no_model_ends(tmp_path):
    checkpoints = watching(tmp_path, "other")
    logs = {"loss": 1.0, "val_loss": 1.0, "other": math.nan}
    for epoch in range(2):
        with pytest.warns(UserWarning, match="there is no best.keras yet"):
            checkpoints.on_epoch_end(epoch, logs)
    with pytest.raises(FloatingPointError, match="other was not finite in 3 valida"):
        checkpoints.on_epoch_end(2, logs)


def test_patience_ends_where_an_unbroken_run_would_end(tmp_path):
    model = plain()
    model.adapt(FLOATS)
    facts = (tmp_path, lambda epoch: 4 * (epoch + 1), "loss", 6)
    checkpoints = Checkpoints(*facts)
    checkpoints.set_model(model)
    for epoch, loss in enumerate([1.0, 1.0]):
        checkpoints.on_epoch_begin(epoch)
        checkpoints.on_epoch_end(epoch, {"loss": loss})
    checkpoints.on_epoch_begin(2)
    for batch in range(2):
        checkpoints.on_train_batch_end(batch)
    checkpoints.save()
    # Six iterations without a better value, but the next validation may have one.
    again = Checkpoints(*facts)
    assert again.restore(model) == 10
    assert not again.stopped_early
    checkpoints.on_epoch_end(2, {"loss": 1.0})
    assert again.restore(model) == 12
    assert again.stopped_early


def test_a_full_disk_leaves_the_former_checkpoint(tmp_path):
    model = plain()
    store = CheckpointStore(tmp_path / "checkpoints")
    store.write(model, 5, {})
    message = r"iteration 10 could not be saved .*iteration-00000005 is intact"
    with full_disk(), pytest.raises(OSError, match=message) as error:
        store.write(model, 10, {})
    assert "\n" not in str(error.value)
    assert [path.name for path in store.directory.iterdir()] == ["iteration-00000005"]
    best = tmp_path / "best.keras"
    files.replace_file(best, model.save)
    whole = best.read_bytes()
    with full_disk(), contextlib.suppress(Exception):
        files.replace_file(best, model.save)
    assert best.read_bytes() == whole
    assert {path.name for path in tmp_path.iterdir()} == {"best.keras", "checkpoints"}


def test_a_file_that_finds_no_room_is_named(tmp_path):
    history = History(tmp_path / "history.csv", lambda epoch: epoch + 1)
    history.on_epoch_end(0, {"loss": 2.5})
    message = r"history.csv could not be written: File too large; make room there"
    with full_disk(30), pytest.raises(files.CannotWrite, match=message):
        history.on_epoch_end(1, {"loss": 2.25})
    # What of the row found room does not stay in the way.
    History.keep_until(history.path, 1)
    history.on_epoch_end(1, {"loss": 2.25})
    assert history.path.read_text().split() == [
        "epoch,iteration,loss",
        "0,1,2.5",
        "1,2,2.25",
    ]
    with full_disk(2), pytest.raises(files.CannotWrite, match=r"a\.json could not be"):
        files.replace_text(tmp_path / "a.json", "long")
    assert [path.name for path in tmp_path.iterdir()] == ["history.csv"]


def test_room_is_looked_for_where_the_system_cannot_set_it_aside(tmp_path, monkeypatch):
    # As on macOS.
    monkeypatch.delattr(os, "posix_fallocate")
    files.replace_file(tmp_path / "a", lambda path: path.write_text("b"), 1)
    message = "a could not be written: No space left on device; make room there"
    with pytest.raises(files.CannotWrite, match=message):
        files.replace_file(tmp_path / "a", Path.touch, 2**62)
    assert (tmp_path / "a").read_text() == "b"


def test_two_processes_do_not_train_in_one_directory(straight):
    script = (
        "import sys; from pathlib import Path; from aef_tfp.files import locked\n"
        "with locked(Path(sys.argv[1])): pass"
    )
    command = [sys.executable, "-c", script, str(straight)]
    with files.locked(straight):
        second = subprocess.run(command, capture_output=True, text=True)
        assert "Another process is training in" in second.stderr
    assert subprocess.run(command).returncode == 0


@pytest.mark.usefixtures("training_alone")
def test_data_that_fail_in_mid_run_end_in_one_line(tmp_path, monkeypatch, capsys):
    reads = []

    def failing(images, *args, **kwargs):
        def read(i):
            reads.append(i)
            # Not while ActNorm is initialized from the first 512 images.
            if i == 6 and len(reads) > 16:
                raise OSError("image 17 cannot be read")
            return images[:32]

        steps = tf.data.Dataset.range(1000)
        return steps.map(
            lambda i: tf.ensure_shape(
                tf.numpy_function(read, [i], tf.uint8), [32, 8, 8, 1]
            )
        )

    monkeypatch.setattr(training, "training_batches", failing)
    run_dir = tmp_path / "run"
    assert run.main([*RUN, f"--run-dir={run_dir}"]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "The run stopped after iteration 6: OSError: image 17 cannot be" in error
    last = run_dir / "checkpoints" / "iteration-00000006"
    assert f"The last good checkpoint is {last}; --resume {run_dir} goes on." in error


# 32 images of digits are spoiled by a first update that no weights survive.
DIVERGING = [*RUN, "--learning-rate=1e30", "--steps-per-execution=1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--max-skipped-updates=2"],
            "after iteration 2: 2 updates in a row had a non-",
        ),
        ([], "after iteration 10: val_loss was not finite in 3 validations in a row, "),
        (["--iterations=8"], "after iteration 8: No validation had a finite loss"),
    ],
)
@pytest.mark.usefixtures("training_alone")
def test_a_run_that_diverges_says_where_and_keeps_nothing_bad(
    arguments, message, tmp_path, capsys
):
    run_dir = tmp_path / "run"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert run.main([*DIVERGING, *arguments, f"--run-dir={run_dir}"]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"The run stopped {message}" in error
    assert "There is no checkpoint yet; resumed, the run would take the same" in error
    assert not (run_dir / "best.keras").exists()
    assert not list(run_dir.glob("checkpoints/iteration-*"))


def test_skipped_updates_push_out_no_checkpoint(tmp_path):
    model = plain(max_skipped_updates=8)
    images = np.concatenate([FLOATS[:64], np.full((160, 4, 4, 1), np.nan, "float32")])
    model.adapt(FLOATS)
    checkpoints = Checkpoints(tmp_path, lambda epoch: 14, save_interval=1, keep=2)
    fed = tf.data.Dataset.from_tensor_slices(images).batch(16)
    with pytest.raises(FloatingPointError, match="8 updates in a row"):
        model.fit(
            fed,
            steps_per_epoch=14,
            validation_data=FLOATS,
            callbacks=[checkpoints],
            verbose=0,
        )
    assert [number for number, _ in checkpoints.store.existing()] == [3, 4]
    assert checkpoints.saved_iteration == 4


def test_what_tensorflow_cannot_do_after_training_is_one_line(
    straight, tmp_path, monkeypatch, capsys
):
    def fail(*args):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating [9]")

    run_dir = shutil.copytree(straight, tmp_path / "run")
    monkeypatch.setattr(training, "_evaluate", fail)
    assert run.main([f"--resume={run_dir}"]) == 1
    error = capsys.readouterr().err.strip()
    assert "The run stopped after iteration 10: OOM when allocating [9]. The" in error
    assert "\n" not in error


def test_sigterm_after_training_ends_the_process_with_its_status(
    straight, tmp_path, monkeypatch, capsys
):
    run_dir = shutil.copytree(straight, tmp_path / "run")
    terminate = lambda *args: os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
    monkeypatch.setattr(training, "_evaluate", terminate)
    former = signal.getsignal(signal.SIGTERM)
    assert run.main([f"--resume={run_dir}"]) == 143
    error = capsys.readouterr().err
    assert error.startswith("interrupted in the evaluation; the training is done; ev")
    assert error.endswith(f" evaluate {run_dir}\n")
    assert signal.getsignal(signal.SIGTERM) == former


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "interrupted before the training began; nothing is written"),
        (
            ["config.json"],
            "interrupted before a checkpoint was saved; begin anew with: {}",
        ),
        (
            ["config.json", "checkpoints/iteration-00000090/state.json"],
            "interrupted; go on from iteration 90 with: {}",
        ),
    ],
)
def test_who_interrupts_a_run_hears_what_there_is_of_it(
    files, message, tmp_path, monkeypatch, capsys
):
    run_dir, data_dir = tmp_path / "my run", tmp_path / "tfds"
    data_dir.mkdir()

    def train(*args, **kwargs):
        for name in files:
            (run_dir / name).parent.mkdir(parents=True, exist_ok=True)
            (run_dir / name).touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", train)
    words = [f"--run-dir={run_dir}", f"--data-dir={data_dir}", "--strategy=none"]
    assert run.main(words) == 128 + signal.SIGINT
    resume = ["--resume", run_dir, "--data-dir", data_dir, "--strategy", "none"]
    expected = message.format(as_typed("train", *resume))
    assert capsys.readouterr().err == f"{expected}\n"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("config.json", "{", "config.json is not valid JSON"),
        ("config.json", "[1]", "config.json is no configuration: it holds [1]."),
        (
            "config.json",
            '{"iterations": "10"}',
            "has iterations = '10', which it cannot",
        ),
        ("config.json", '{"model": "gan"}', "has model = 'gan', which it cannot be"),
        ("history.csv", "a,b\n1,2\n", "history.csv is not the history of a run"),
        ("history.csv", "epoch,iteration\n0,x\n", "history.csv is not the history of"),
        (
            "history.csv",
            "epoch,iteration\n0,1,2\n",
            "history.csv is not the history of",
        ),
    ],
)
def test_a_damaged_file_of_a_run_is_named(
    name, text, message, straight, tmp_path, capsys
):
    run_dir = shutil.copytree(straight, tmp_path / "run")
    (run_dir / name).write_text(text)
    assert run.main([f"--resume={run_dir}"]) == 1
    error = capsys.readouterr().err.strip()
    assert message in error
    assert error.startswith("error: ")
    assert "\n" not in error


def validated(tmp_path, values):
    """Checkpoints of a model whose validation losses are these."""
    model = plain()
    checkpoints = Checkpoints(tmp_path, lambda epoch: epoch + 1)
    checkpoints.set_model(model)
    for epoch, value in enumerate(values):
        checkpoints.on_epoch_begin(epoch)
        checkpoints.on_train_batch_end(0)
        checkpoints.on_epoch_end(epoch, {"val_loss": value})
    return checkpoints


def test_a_validation_loss_that_diverges_is_told_once(tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        checkpoints = validated(tmp_path, [5.0, 4.0, 9.0, 10.0])
    told = [str(w.message) for w in caught if w.category is UserWarning]
    assert len(told) == 1
    assert "val_loss is 9 at iteration 3, worse than 5 at the first" in told[0]
    assert (checkpoints.best, checkpoints.best_iteration) == (4.0, 2)


def test_validation_losses_that_are_not_finite_stop_the_run(tmp_path):
    message = "not finite in 3 validations in a row, the last at iteration 5; .*iter"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(FloatingPointError, match=message):
            validated(tmp_path, [np.nan, 4.0, np.nan, np.inf, np.nan])
        told = [str(w.message) for w in caught if w.category is UserWarning]
    best = "the best model, of iteration 2, is best.keras."
    assert told == [
        "val_loss is nan at iteration 1; there is no best.keras yet.",
        f"val_loss is nan at iteration 3; {best}",
        f"val_loss is inf at iteration 4; {best}",
    ]
    store = CheckpointStore(tmp_path / "checkpoints")
    assert [number for number, _ in store.existing()] == [2]
    assert store.newest_state()[1]["best_iteration"] == 2


def trained(strategy, run_dir, steps, kind=Checkpoints):
    """A model after so many of 6 steps, from where the run directory is."""
    with strategy.scope():
        model = plain(keras.optimizers.Adam(1e-3))
    model.noise_std = 0.1
    images = (FLOATS * 17).astype(np.uint8)
    checkpoints = kind(run_dir, lambda epoch: 6, "loss")
    done = checkpoints.restore(model)
    history = model.fit(
        batches(images).skip(done),
        steps_per_epoch=steps,
        callbacks=[checkpoints],
        verbose=0,
    )
    return model, history.history


@pytest.mark.parametrize("first", ["one device", "two replicas"])
def test_checkpoints_pass_between_one_device_and_several(first, mirrored, tmp_path):
    strategies = [tf.distribute.get_strategy(), mirrored]
    before, after = strategies if first == "one device" else strategies[::-1]
    expected, logs = trained(after, tmp_path / "straight", 6)

    class StopInMidEpoch(Checkpoints):
        def on_train_batch_end(self, batch, logs=None):
            super().on_train_batch_end(batch, logs)
            if self.iteration == 3:
                self.save()
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(before, tmp_path / "resumed", 6, StopInMidEpoch)
    model, resumed_logs = trained(after, tmp_path / "resumed", 3)
    assert int(model.optimizer.iterations.numpy()) == 6
    for value, other in zip(weights(model), weights(expected), strict=True):
        np.testing.assert_allclose(value, other, rtol=1e-5, atol=1e-6)
    # The means are those of the whole epoch.
    assert resumed_logs.keys() == logs.keys()
    for name, values in logs.items():
        np.testing.assert_allclose(resumed_logs[name], values, rtol=1e-5, err_msg=name)


def cluster(addresses, **jobs):
    task = {"type": "worker", "index": 0}
    return json.dumps({"cluster": {"worker": addresses, **jobs}, "task": task})


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("auto", "{}", "needs the environment variable TF_CONFIG"),
        ("multi-worker", "", "needs the environment variable TF_CONFIG"),
        ("multi-worker", "not json", "got 'not json'"),
        (
            "auto",
            json.dumps(
                {"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}
            ),
            "this one's place",
        ),
        ("auto", cluster(["a:1", "a:1"]), "list the workers"),
        ("auto", cluster(["a:1", "b"]), "list the workers"),
        ("auto", cluster("a:1"), "list the workers"),
        ("auto", cluster(["a:1"], chief=["b:1"]), "list the workers"),
        ("tpu", "", "strategy must be one of auto, none, mirrored, multi-worker, got"),
    ],
)
def test_strategies_that_cannot_be_are_refused(name, config, message, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(ValueError, match=message):
        distribution.get_strategy(name)


def test_strategies_have_names(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert distribution.get_strategy("none") is tf.distribute.get_strategy()
    assert distribution.get_strategy() is tf.distribute.get_strategy()
    kind = tf.distribute.MirroredStrategy
    assert isinstance(distribution.get_strategy("mirrored"), kind)
    two = [tf.config.PhysicalDevice(f"gpu{i}", "GPU") for i in range(2)]
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: two)
    monkeypatch.setattr(tf.distribute, "MirroredStrategy", lambda: "all GPUs")
    assert distribution.get_strategy() == "all GPUs"


def test_a_worker_that_does_not_come_is_named(monkeypatch):
    monkeypatch.setattr(distribution, "_START_SECONDS", 0.3)
    own, other = launch._free_addresses(2)
    monkeypatch.setenv("TF_CONFIG", cluster([own, other]))
    message = f"After 0 s there is no answer from worker 1 at {other}; start all"
    with pytest.raises(TimeoutError, match=message):
        distribution.get_strategy()


def test_an_address_that_is_taken_is_named(monkeypatch):
    own, other = launch._free_addresses(2)
    monkeypatch.setenv("TF_CONFIG", cluster([own, other]))
    with socket.socket() as taken:
        taken.bind(("", int(own.rpartition(":")[2])))
        taken.listen()
        with pytest.raises(OSError, match=f"Worker 0 cannot have its address {own}"):
            distribution.get_strategy()


def test_workers_wait_for_the_last_one():
    addresses = launch._free_addresses(2)
    came = []

    def come(index):
        distribution._wait_for_workers(addresses, index)
        came.append(index)

    first = threading.Thread(target=come, args=(0,), daemon=True)
    first.start()
    time.sleep(0.5)
    assert not came
    # As TensorFlow does, it listens at its address afterwards.
    host, port = addresses[1].split(":")
    with socket.create_server((host, int(port))):
        first.join(5)
    assert came == [0]


def test_one_worker_asks_only_itself():
    strategy = tf.distribute.get_strategy()
    assert distribution.is_chief(strategy)
    assert distribution.any_worker(strategy, True)
    assert not distribution.any_worker(strategy, False)
    assert distribution.share_json(strategy, {"a": [1]}) == {"a": [1]}


def test_the_launcher_passes_on_that_it_is_to_end(monkeypatch, capsys):
    worker = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(print('saved') or 143))\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)"
    )

    def start(addresses, index, argv):
        process = subprocess.Popen(
            [sys.executable, "-c", worker], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout.readline() == "ready\n"
        return process

    monkeypatch.setattr(launch, "_start", start)
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    assert launch.main([]) == 143
    lines = capsys.readouterr().out.splitlines()
    assert sorted(lines) == ["[worker 0] saved", "[worker 1] saved"]


def test_the_launcher_refuses_no_worker(capsys):
    assert launch.main(["--workers=0"]) == 1
    assert "--workers must be at least 1, got 0" in capsys.readouterr().err


class Saved:
    """Checkpoints of a run: how far it is, and how far it is saved."""

    def __init__(self, iteration, saved):
        self.iteration, self.saved_iteration = iteration, saved


def test_with_nothing_to_save_an_interruption_ends_at_once(capfd):
    with pytest.raises(KeyboardInterrupt), StopOnSignal(Saved(5, 5)):
        os.kill(os.getpid(), signal.SIGINT)
    with StopOnSignal(Saved(6, 5)):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)
    assert "Saving after this step" in capfd.readouterr().err
    # The end of a terminal is heard, too, unless it is ignored.
    former = signal.signal(signal.SIGHUP, lambda *_: None)
    try:
        with StopOnSignal(Saved(5, 5)):
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.2)
        assert "Saving after this step" in capfd.readouterr().err
    finally:
        signal.signal(signal.SIGHUP, former)


BLOCKED = """
import sys, numpy as np
from aef_tfp.callbacks import StopOnSignal

class Saved:
    iteration = saved_iteration = 5

with StopOnSignal(Saved()):
    matrix = np.random.default_rng(0).normal(size=(4000, 4000))
    print("ready", flush=True)
    # As the compiler of a step: an operation that hears no signal, for a minute.
    np.linalg.svd(matrix)
print("too late", flush=True)
"""


def test_an_interruption_is_heard_in_the_middle_of_an_operation():
    process = subprocess.Popen(
        [sys.executable, "-c", BLOCKED],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    assert out == ""
    assert "interrupted; --resume goes on from iteration 5\n" in error
