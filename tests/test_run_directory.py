"""A run directory: who may write it, what is whole, which weights a number is of."""

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import time
import types
import warnings
import zipfile
from pathlib import Path

import keras
import kill_and_resume
import numpy as np
import pytest
import tensorflow as tf
from test_run import SMALL, history

from aef_tfp import files, metrics, saved
from aef_tfp.callbacks import Checkpoints, Pictures
from aef_tfp.data import dataset_info
from aef_tfp.records import append_records, read_records
from aef_tfp.runs import best, evaluation, training
from aef_tfp.runs.building import build_model
from aef_tfp.runs.commands import evaluate, export
from aef_tfp.runs.commands import train as run
from aef_tfp.runs.config import EvaluationConfig, RunConfig
from aef_tfp.runs.environment import write_environment
from aef_tfp.saved import place_of_images

ROOT = Path(__file__).parents[1]

CONFIG = RunConfig(
    model="vae",
    latent_dim=2,
    networks="dense",
    core_flow="none",
    prior_flow="none",
    batch_size=32,
    jit_compile=False,
)
QUICK = ["--num-images=4", "--num-samples=2"]


@pytest.fixture(scope="module")
def images():
    return evaluation.load_run_splits(CONFIG)


@pytest.fixture(scope="module")
def in_training(tmp_path_factory, images):
    """A run that has had its first validation, of a model that is to be tuned."""
    run_dir = tmp_path_factory.mktemp("runs") / "run"
    model = build_model(CONFIG, dataset_info("digits"))
    model.fit(images.train.images[:64], batch_size=32, verbose=0)
    (run_dir / "checkpoints").mkdir(parents=True)
    (run_dir / "config.json").write_text(CONFIG.to_json())
    saved.save_best(model, run_dir / "best.keras", {"iteration": 2, "val_loss": 1.5})
    return run_dir


@pytest.fixture
def run_dir(in_training, tmp_path):
    return shutil.copytree(in_training, tmp_path / "run")


# Locks.


HOLD = """
import sys, time; from pathlib import Path; from aef_tfp.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True); time.sleep(60)
"""


@contextlib.contextmanager
def held(directory):
    """Another process that trains there."""
    command = [sys.executable, "-c", HOLD, str(directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout.readline() == "held\n"
            yield holder
        finally:
            holder.kill()


def test_a_second_training_is_told_who_trains(run_dir, capsys, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in run_dir.iterdir()}
    monkeypatch.setattr(training, "load_run_splits", None)  # Not even this.
    with held(run_dir) as holder:
        assert run.main([f"--resume={run_dir}"]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: Another process is training in {run_dir} (proc")
    assert f"(process {holder.pid} on {os.uname().nodename}, since 20" in printed
    assert printed.endswith("; wait for it, or stop it.\n")
    assert printed.count("\n") == 1
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_a_lock_dies_with_its_process_and_leaves_nothing(tmp_path):
    with held(tmp_path) as holder:
        with pytest.raises(BlockingIOError), files.locked(tmp_path):
            pass
        holder.kill()
        holder.wait()
        with files.locked(tmp_path):
            assert str(os.getpid()) in (tmp_path / ".lock").read_text()
    assert not list(tmp_path.iterdir())


def test_one_waits_for_another_as_long_as_it_likes(tmp_path):
    with held(tmp_path) as holder:
        began = time.monotonic()
        with pytest.raises(BlockingIOError), files.locked(tmp_path, wait_seconds=0.3):
            pass
        assert time.monotonic() - began >= 0.3
        holder.kill()
        with files.locked(tmp_path, wait_seconds=10.0):
            pass


def test_a_file_system_without_locks_gets_a_warning(tmp_path, monkeypatch):
    def flock(*args):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    left = tmp_path / ".a.writing-0.json"
    left.touch()
    told = pytest.warns(UserWarning, match="without locks .*see to it that no other")
    with told, files.locked(tmp_path):
        files.replace_text(tmp_path / "a.json", "new")
    assert (tmp_path / "a.json").read_text() == "new"
    # It may be that of a living process.
    assert left.exists()


def test_a_new_run_does_not_begin_where_another_just_did(tmp_path, monkeypatch):
    run_dir = tmp_path / "run"

    def build(*args):
        # Between the first look and the lock.
        run_dir.mkdir()
        (run_dir / "config.json").write_text("of the other")
        return build_model(*args)

    monkeypatch.setattr(training, "build_model", build)
    with pytest.raises(FileExistsError, match="exists and is not empty"):
        training.train(CONFIG, run_dir, verbose=0)
    assert (run_dir / "config.json").read_text() == "of the other"


def test_what_a_killed_process_left_aside_goes_and_no_living_file(tmp_path):
    for name in ("left", "alive"):
        (tmp_path / f".best.writing-{name}.keras").write_bytes(b"half")
    with (tmp_path / ".best.writing-alive.keras").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        files.replace_file(tmp_path / "best.keras", lambda p: p.write_bytes(b"whole"))
        names = sorted(path.name for path in tmp_path.iterdir())
        assert names == [".best.writing-alive.keras", "best.keras"]
    files.remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["best.keras"]


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "best.keras"

    def write(aside):
        aside.write_bytes(b"first")
        files.replace_file(path, lambda other: other.write_bytes(b"second"))
        assert path.read_bytes() == b"second"
        assert aside.read_bytes() == b"first"

    files.replace_file(path, write)
    assert path.read_bytes() == b"first"
    assert oct(path.stat().st_mode & 0o777) == oct(0o666 & ~_umask())


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


RECORD = metrics.Record(
    name="bits_per_dim",
    value=1.5,
    standard_error=None,
    estimator="exact",
    split="test",
    num_images=4,
)

APPEND = """
import dataclasses, json, sys; from pathlib import Path
from aef_tfp.records import Record, append_records
record = Record(**json.loads(sys.argv[2]))
for i in range(20):
    append_records(Path(sys.argv[1]), [dataclasses.replace(record, seed=i)])
assert "tensorflow" not in sys.modules
"""


def test_processes_that_append_at_once_lose_nothing(tmp_path):
    record = json.dumps(dataclasses.asdict(RECORD))
    command = [sys.executable, "-c", APPEND, str(tmp_path), record]
    writers = [subprocess.Popen(command) for _ in range(3)]
    while any(writer.poll() is None for writer in writers):
        read_records(tmp_path)  # Never half a file.
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert sorted(r.seed for r in read_records(tmp_path)) == sorted([*range(20)] * 3)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


# The best model.


def test_the_label_is_that_of_the_weights_after_any_kill(tmp_path, monkeypatch, images):
    model = build_model(CONFIG, images.info)
    model.adapt(images.train.images[:64])
    checkpoints = Checkpoints(tmp_path, lambda epoch: 2 * (epoch + 1))
    checkpoints.set_model(model)
    path = tmp_path / "best.keras"
    for epoch, loss in enumerate([3.0, 2.0]):
        model.fit(images.train.images[:64], batch_size=32, verbose=0)
        checkpoints.on_epoch_begin(epoch)
        if epoch:
            # As if it were killed between the two files.
            monkeypatch.setattr(checkpoints.store, "write", lambda *args: 1 / 0)
        with contextlib.suppress(ZeroDivisionError):
            checkpoints.on_epoch_end(epoch, {"val_loss": loss})
    assert checkpoints.store.newest_state()[1]["best_iteration"] == 2
    assert saved.read_label(path) == {"iteration": 4, "val_loss": 2.0}
    assert int(keras.saving.load_model(path).optimizer.iterations) == 4


def test_a_loaded_best_model_goes_on_as_keras_says(in_training, images):
    # Documented for Keras: a `.keras` file has the optimizer's state.
    batch = images.train.images[:64]
    first, second = (keras.saving.load_model(in_training / "best.keras") for _ in "ab")
    assert int(first.optimizer.iterations) == 2
    moments = [v.numpy() for v in first.optimizer.variables[2:]]
    assert any(np.any(value) for value in moments)
    for model in (first, second):
        model.fit(batch, batch_size=32, verbose=0, shuffle=False)
    straight = build_model(CONFIG, images.info)
    straight.set_weights(
        keras.saving.load_model(in_training / "best.keras").get_weights()
    )
    straight.fit(batch, batch_size=32, verbose=0, shuffle=False)
    same, other = first.get_weights(), straight.get_weights()
    for one, two in zip(same, second.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    # Without the state it is another step.
    assert any(np.any(a != b) for a, b in zip(same, other, strict=True))


def test_keras_own_backup_brings_the_optimizer_back(tmp_path, images):
    batch = images.train.images[:64]

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    def fit(name, *callbacks):
        keras.utils.set_random_seed(1)
        model = build_model(CONFIG, images.info)
        model.adapt(batch)
        backup = keras.callbacks.BackupAndRestore(tmp_path / name)
        options = {"batch_size": 32, "shuffle": False, "verbose": 0, "epochs": 3}
        model.fit(batch, callbacks=[backup, *callbacks], **options)
        return model

    expected = fit("straight")
    with pytest.raises(KeyboardInterrupt):
        fit("resumed", Stop())
    model = fit("resumed")
    assert int(model.optimizer.iterations) == 6
    for one, two in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def without_a_member(path):
    with zipfile.ZipFile(path) as archive:
        parts = {n: archive.read(n) for n in archive.namelist() if n != "config.json"}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)


def with_member(name, data):
    def spoil(path):
        with zipfile.ZipFile(path) as archive:
            parts = {n: archive.read(n) for n in archive.namelist()} | {name: data}
        with zipfile.ZipFile(path, "w") as archive:
            for key, value in parts.items():
                archive.writestr(key, value)

    return spoil


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def another_model(path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.save(path)


SPOILS = {
    "empty": (lambda path: path.write_bytes(b""), "whole model file: empty"),
    "junk": (lambda path: path.write_bytes(b"\x00\xff" * 99), "not a zip file"),
    "cut": (cut, "not a zip file"),
    "flipped": (flip, "is not as it was written"),
    "a member less": (without_a_member, "no config.json in it"),
    "another model": (another_model, "it holds a Sequential"),
    "no config": (with_member("config.json", "{}"), "is no whole model file"),
    "weights": (with_member("model.weights.h5", b"no"), "is no whole model file"),
    "label": (with_member("training.json", "[]"), "training.json is no label"),
    "label's junk": (
        with_member("training.json", b"\xff"),
        "training.json is no label",
    ),
}


@pytest.mark.parametrize("name", list(SPOILS))
def test_a_spoiled_best_model_is_named(name, run_dir, tmp_path, capsys):
    spoil, message = SPOILS[name]
    path = run_dir / "best.keras"
    spoil(path)
    for main, argv in (
        (evaluate.main, [str(run_dir), *QUICK]),
        (export.main, [str(run_dir), str(tmp_path / "out")]),
    ):
        assert main(argv) == 1
        printed = capsys.readouterr().err
        assert printed.startswith(f"error: {path} is no whole model file: ")
        assert message in printed
        assert f"remove it and go on with aef-tfp train --resume {run_dir}: " in printed
        assert printed.count("\n") == 1
    assert not (run_dir / "metrics.json").exists()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\x00",
        b"{",
        b"{}",
        b"5",
        b"null",
        b'["a"]',
        b"[{}]",
        b'[{"name": 5}]',
        json.dumps([{**dataclasses.asdict(RECORD), "value": "1"}]).encode(),
        b"[" * 100_000,
    ],
)
def test_spoiled_numbers_are_named_and_kept(data, run_dir, capsys):
    path = run_dir / "metrics.json"
    path.write_bytes(data)
    for argv in ([str(run_dir), *QUICK], ["--compare", str(run_dir)]):
        assert evaluate.main(argv) == 1
        printed = capsys.readouterr().err
        assert printed.startswith(f"error: {path} ")
        assert printed.endswith("Move it away and evaluate again.\n")
        assert printed.count("\n") == 1
    with pytest.raises(saved.DamagedFile):
        append_records(run_dir, [RECORD])
    assert path.read_bytes() == data


# Evaluation beside a training.


def test_an_evaluation_leaves_alone_what_the_training_writes(
    run_dir, capsys, monkeypatch
):
    path = run_dir / "best.keras"
    before = path.read_bytes(), path.stat().st_ino
    with files.locked(run_dir):
        assert evaluate.main([str(run_dir), *QUICK]) == 0
    assert f"Appended to {run_dir / 'metrics.json'}" in capsys.readouterr().out
    assert (path.read_bytes(), path.stat().st_ino) == before
    assert {record.iteration for record in read_records(run_dir)} == {2}
    # The scale is kept beside it, and is the model's whoever loads it from a run.
    scale = best.load_best(run_dir).proposal_scale("encoder")
    kept = json.loads((run_dir / "proposal-scales.json").read_text())
    assert kept["scales"] == {"encoder": scale}
    assert kept["num_samples"] == 2
    with monkeypatch.context() as patch:
        patch.setattr(metrics, "tune_proposal_scale", None)
        assert evaluate.main([str(run_dir), *QUICK]) == 0
    one, two = (r.value for r in read_records(run_dir) if r.name == "marginal_log_prob")
    assert one == two
    names = {p.name for p in run_dir.iterdir()}
    assert names == {
        "best.keras",
        "checkpoints",
        "config.json",
        "metrics.json",
        "per-image",
        "proposal-scales.json",
    }


def test_a_scale_belongs_to_a_number_of_samples(run_dir):
    found = best.read_best(run_dir)
    found.model.set_proposal_scale("encoder", 0.5)
    best.keep_scales(found, run_dir, 2)
    for number, is_used in ((2, True), (3, False), (None, True)):
        found = best.read_best(run_dir)
        best.use_kept_scales(found, run_dir, number)
        assert ("encoder" in found.model.proposal_scales) == is_used


def test_a_scale_belongs_to_its_weights(run_dir, capsys):
    evaluation.evaluate_run(run_dir, EvaluationConfig(num_images=2, num_samples=2))
    assert "encoder" in best.load_best(run_dir).proposal_scales
    model = keras.saving.load_model(run_dir / "best.keras")
    saved.save_best(model, run_dir / "best.keras", {"iteration": 3})
    assert not best.load_best(run_dir).proposal_scales
    path = run_dir / "proposal-scales.json"
    for data in (b"{", b"[]", b'{"sha256": 1}'):
        path.write_bytes(data)
        if data == b'{"sha256": 1}':
            # Of some other weights, whatever else it holds.
            assert not best.load_best(run_dir).proposal_scales
            continue
        capsys.readouterr()
        assert evaluate.main([str(run_dir), *QUICK]) == 1
        printed = capsys.readouterr().err
        assert printed.startswith(f"error: {path} ")
        assert "Remove it, and the next evaluation tunes the scale again." in printed


def test_weights_and_label_are_read_at_once(run_dir, monkeypatch):
    other = keras.saving.load_model(run_dir / "best.keras")
    weights = other.get_weights()
    other.set_weights([np.zeros_like(value) for value in weights])
    load = keras.saving.load_model

    def load_late(path):
        # The training has written another one in the meantime.
        saved.save_best(other, run_dir / "best.keras", {"iteration": 9})
        return load(path)

    monkeypatch.setattr(keras.saving, "load_model", load_late)
    found = best.read_best(run_dir)
    assert found.iteration == 2
    for one, two in zip(found.model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(one, two)


@contextlib.contextmanager
def read_only(directory, monkeypatch, number=errno.EROFS):
    """Opening a file there for writing fails, whoever one is."""
    original = Path.open

    def guarded(self, mode="r", *args, **kwargs):
        is_there = directory in self.parents
        if is_there and set(mode) & set("wax+"):
            raise OSError(number, os.strerror(number), str(self))
        return original(self, mode, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", guarded)
        yield


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_run_that_can_only_be_read_is_evaluated(number, run_dir, capsys, monkeypatch):
    names = {path.name for path in run_dir.iterdir()}
    if number != errno.EROFS:
        # What is to be kept, without the graphs that it comes from.
        record = dataclasses.replace(RECORD, name="marginal_bits_per_dim")
        monkeypatch.setattr(
            evaluation, "likelihood_records", lambda *args, **kwargs: [record]
        )
        monkeypatch.setattr(
            metrics,
            "tune_proposal_scale",
            lambda model, *args, **kwargs: model.set_proposal_scale("encoder", 0.5),
        )
    with read_only(run_dir, monkeypatch, number):
        assert evaluate.main([str(run_dir), *QUICK]) == 0
    printed = capsys.readouterr()
    assert "marginal_bits_per_dim" in printed.out
    assert "Appended" not in printed.out
    notes = [line for line in printed.out.splitlines() if "not kept" in line]
    assert len(notes) == 2
    assert f"not kept: {run_dir / 'proposal-scales.json'} could not be" in notes[0]
    assert os.strerror(number) in notes[1]
    assert {path.name for path in run_dir.iterdir()} == names
    config = EvaluationConfig(num_images=2, proposal="laplace", num_samples=2)
    told = pytest.warns(UserWarning, match="numbers are not kept")
    with read_only(run_dir, monkeypatch, number), told:
        assert evaluation.evaluate_run(run_dir, config, verbose=0)


def test_numbers_are_kept_though_a_picture_is_not(run_dir, images, monkeypatch):
    def fail(path, picture):
        raise files.CannotWrite(f"{path} could not be written")

    monkeypatch.setattr(
        training, "likelihood_records", lambda *args, **kwargs: [RECORD]
    )
    monkeypatch.setattr(training, "tune", lambda *args: False)
    monkeypatch.setattr(training, "save_png", fail)
    with pytest.warns(UserWarning, match=r"Not all .* kept: .*samples\.png could not"):
        assert training._evaluate(run_dir, CONFIG, images, 0) == [RECORD]
    assert [record.name for record in read_records(run_dir)] == [RECORD.name]


def test_numbers_are_kept_though_later_ones_fail(run_dir, images, monkeypatch):
    def fail(*args, **facts):
        raise MemoryError

    monkeypatch.setattr(
        training, "likelihood_records", lambda *args, **kwargs: [RECORD]
    )
    monkeypatch.setattr(training, "tune", lambda *args: False)
    monkeypatch.setattr(training, "is_denoiser", lambda model: True)
    monkeypatch.setattr(training, "reconstruction_records", fail)
    with pytest.raises(MemoryError):
        training._evaluate(run_dir, CONFIG, images, 0)
    assert [record.name for record in read_records(run_dir)] == [RECORD.name]


def test_every_place_of_a_run_is_kept(tmp_path):
    path = tmp_path / "environment.json"
    one = tf.distribute.get_strategy()
    other = tf.distribute.OneDeviceStrategy("cpu:0")

    def places(strategy, done):
        write_environment(path, strategy, done)
        newest = json.loads(path.read_text())
        return [
            (place["from_iteration"], place["strategy"])
            for place in (newest, *newest["before"])
        ]

    first = (0, "_DefaultDistributionStrategy")
    assert places(one, 0) == [first]
    assert places(one, 5) == [first]
    assert places(other, 7) == [(7, "OneDeviceStrategy"), first]
    # What was done there is lost.
    assert places(one, 6) == [first]
    # Older versions wrote one place.
    path.write_text('{"strategy": "MirroredStrategy"}')
    assert places(one, 6)[1] == (0, "MirroredStrategy")
    for damaged in ("[", '{"from_iteration": null}', '{"from_iteration": "3"}'):
        path.write_text(damaged)
        assert places(one, 6) == [(6, "_DefaultDistributionStrategy")]


def test_a_run_remembers_where_its_images_are(tmp_path, monkeypatch, capsys):
    run_dir, moved = tmp_path / "run", tmp_path / "moved"
    run_dir.mkdir()
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    devices = tf.distribute.get_strategy()
    path = run_dir / "environment.json"
    assert place_of_images(run_dir) is None
    write_environment(path, devices, 0)
    assert "data_dir" not in json.loads(path.read_text())
    write_environment(path, devices, 0, Path("photos"))
    write_environment(path, devices, 9, moved)
    config = dataclasses.replace(CONFIG, dataset="folder")
    (run_dir / "config.json").write_text(config.to_json())
    # From any directory; that of the last sitting is not there.
    monkeypatch.chdir(run_dir)
    assert place_of_images(run_dir) == tmp_path / "photos"
    moved.mkdir()
    assert place_of_images(run_dir) == moved
    assert place_of_images(run_dir, tmp_path) == tmp_path
    asked = []

    def train(*args, data_dir, **kwargs):
        asked.append(data_dir)
        return []

    monkeypatch.setattr(training, "train", train)
    assert run.main(["--resume", str(run_dir)]) == 0
    assert f"images: {moved}, as before" in capsys.readouterr().out
    assert run.main(["--resume", str(run_dir), f"--data-dir={tmp_path}"]) == 0
    assert "as before" not in capsys.readouterr().out
    assert asked == [moved, tmp_path]
    # The same for evaluations, and for those who call them.
    monkeypatch.setattr(
        evaluation, "read_best", lambda path: types.SimpleNamespace(model=None)
    )
    for place in (None, tmp_path):
        where = pytest.raises(LookupError, match=rf"^{re.escape(str(place or moved))}$")
        monkeypatch.setattr(evaluation, "load_run_splits", told_where)
        with where:
            evaluation.evaluate_run(run_dir, data_dir=place)
        words = [] if place is None else [f"--data-dir={place}"]
        with where:
            evaluate.main([str(run_dir), *words])
    assert f"images: {moved}, as before" in capsys.readouterr().out
    path.write_text('{"data_dir": 3, "before": [[]]}')
    assert place_of_images(run_dir) is None


def told_where(*args, data_dir, **kwargs):
    raise LookupError(str(data_dir))


def test_numbers_are_shown_though_their_file_breaks_meanwhile(
    run_dir, capsys, monkeypatch
):
    def spoil(*args, **kwargs):
        (run_dir / "metrics.json").write_text("{")
        return [RECORD]

    monkeypatch.setattr(evaluation, "likelihood_records", spoil)
    assert evaluate.main([str(run_dir), *QUICK]) == 0
    printed = capsys.readouterr().out
    assert "bits_per_dim" in printed
    assert "not kept: " in printed
    assert "metrics.json is no list of records" in printed


def test_a_directory_that_cannot_be_written_is_no_place_to_train(
    tmp_path, run_dir, capsys, monkeypatch
):
    with read_only(run_dir, monkeypatch):
        assert run.main([f"--resume={run_dir}"]) == 1
    printed = capsys.readouterr().err
    assert "could not be written: Read-only file system; make room there" in printed
    assert printed.count("\n") == 1


@pytest.mark.slow
def test_a_training_and_two_evaluations_survive_being_killed(capsys):
    # Once here; the script takes the number of times.
    assert kill_and_resume.main(["--kills=0", "--together=1"]) == 0
    assert "resumed, equal" in capsys.readouterr().out


# A run whose best model is gone.


def test_a_best_model_that_is_gone_is_made_anew(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Pictures, "pictures", lambda self: iter(()))
    run_dir = tmp_path / "run"
    argv = [*SMALL, "--networks=dense", "--validation-interval=4"]
    argv += [f"--run-dir={run_dir}"]
    assert run.main([*argv, "--iterations=8", "--patience=100"]) == 0
    path = run_dir / "best.keras"
    label = saved.read_label(path)
    assert label["iteration"] in (4, 8)
    assert label["val_loss"] == min(float(row["val_loss"]) for row in history(run_dir))
    records = read_records(run_dir)
    # Damaged, it is not passed over for hours.
    whole = path.read_bytes()
    cut(path)
    assert run.main([f"--resume={run_dir}", "--iterations=12"]) == 1
    assert "best.keras is no whole model file" in capsys.readouterr().err
    path.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert run.main([f"--resume={run_dir}"]) == 1
    printed = capsys.readouterr().err
    assert "best.keras is gone, and no validation is left to write it" in printed
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert run.main([f"--resume={run_dir}", "--iterations=12"]) == 0
    words = "best.keras is gone; the model of the next validation takes its place"
    assert [words in str(warning.message) for warning in told].count(True) == 1
    assert saved.read_label(path)["iteration"] == 12
    assert [r.iteration for r in read_records(run_dir)[len(records) :]] == [12, 12]
    assert path.read_bytes() != whole


def test_a_resumed_run_keeps_its_settings_from_python_too(run_dir):
    other = dataclasses.replace(CONFIG, learning_rate=0.5, iterations=4)
    with pytest.raises(
        ValueError, match=r"learning_rate \(0.001 -> 0.5\) would change"
    ):
        training.train(other, run_dir, resume=True, verbose=0)
    assert RunConfig.from_run(run_dir) == CONFIG


# What belongs together.


def test_weights_of_another_run_are_refused(run_dir, capsys):
    model = keras.saving.load_model(run_dir / "best.keras")
    other = dataclasses.replace(CONFIG, model="iwae", seed=5)
    label = {"iteration": 2, "settings": json.loads(json.dumps(other.of_weights()))}
    saved.save_best(model, run_dir / "best.keras", label)
    for main, argv in (
        (evaluate.main, [str(run_dir), *QUICK]),
        (export.main, [str(run_dir), str(run_dir / "out")]),
    ):
        assert main(argv) == 1
        printed = capsys.readouterr().err
        assert "best.keras is of a run with other settings than config.json" in printed
        assert (
            "(model (iwae -> vae), seed (5 -> 3)): put back the one or the" in printed
        )
    label["settings"] = CONFIG.of_weights()
    saved.save_best(model, run_dir / "best.keras", label)
    assert best.read_best(run_dir).iteration == 2


@pytest.mark.parametrize(
    ("name", "value", "change"),
    [
        ("learning_rate", 0.5, "(learning_rate (0.001 -> 0.5))"),
        # The best validation so far would be of another number.
        ("select", "marginal", "(select (joint -> marginal))"),
    ],
)
def test_a_changed_configuration_is_that_of_another_run(
    name, value, change, run_dir, capsys
):
    path = run_dir / "best.keras"
    model = keras.saving.load_model(path)
    label = {"iteration": 2, "settings": CONFIG.of_weights()}
    saved.save_best(model, path, label)
    other = dataclasses.replace(CONFIG, **{name: value})
    (run_dir / "config.json").write_text(other.to_json())
    # Before a training goes on, and writes the file over.
    assert run.main([f"--resume={run_dir}"]) == 1
    printed = capsys.readouterr().err
    assert "best.keras is of a run with other settings" in printed
    assert change in printed


def test_a_model_of_other_images_is_refused(run_dir, capsys):
    info = dataclasses.replace(dataset_info("digits"), image_shape=(12, 8, 1))
    build_model(CONFIG, info).save(run_dir / "best.keras")
    assert evaluate.main([str(run_dir), *QUICK]) == 1
    printed = capsys.readouterr().err
    assert (
        "is a model of images of 12 x 8 x 1 with 17 levels, and the run has" in printed
    )


def test_checkpoints_of_another_run_are_refused(run_dir, images, capsys):
    run_dir.joinpath("best.keras").unlink()
    model = build_model(CONFIG, images.info)
    facts = {"settings": dataclasses.replace(CONFIG, seed=5).of_weights()}
    checkpoints = Checkpoints(run_dir, lambda epoch: 3, facts=facts)
    checkpoints.set_model(model)
    checkpoints.iteration = 3
    checkpoints._epoch_end = 3
    checkpoints.save()
    assert run.main([f"--resume={run_dir}"]) == 1
    printed = capsys.readouterr().err
    assert "checkpoints is of a run with other settings" in printed
    assert "(seed (5 -> 3))" in printed
    # Without a word of the settings, what does not fit is still one line.
    other = build_model(dataclasses.replace(CONFIG, latent_dim=3), images.info)
    with pytest.raises(
        ValueError, match=r"weights\.h5 does not fit the model: "
    ) as error:
        checkpoints.store.read(other)
    assert "\n" not in str(error.value)


def test_a_run_that_has_lost_its_checkpoints_does_not_begin_anew(run_dir, capsys):
    rows = "epoch,iteration,val_loss\n0,500,1.5\n1,1000,1.25\n"
    (run_dir / "history.csv").write_text(rows)
    assert run.main([f"--resume={run_dir}"]) == 1
    printed = capsys.readouterr().err
    assert (
        "holds no checkpoint, but history.csv knows of several validations" in printed
    )
    assert (run_dir / "history.csv").read_text() == rows


def test_a_checkpoint_without_files_does_not_count_as_progress(run_dir, capsys):
    (run_dir / "checkpoints" / "iteration-00999999").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert run.main([f"--resume={run_dir}"]) == 1
    # Not that the run has gone on to there.
    assert "All 1 checkpoints in" in capsys.readouterr().err


def test_what_other_versions_know_of_a_number_is_kept(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps([{**dataclasses.asdict(RECORD), "flavour": 1}]))
    append_records(tmp_path, [RECORD])
    assert [entry.get("flavour") for entry in json.loads(path.read_text())] == [1, None]
    assert read_records(tmp_path) == [RECORD, RECORD]


def test_a_link_stays_one(tmp_path):
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "metrics.json", tmp_path / "metrics.json"
    link.symlink_to(target)
    append_records(tmp_path, [RECORD])
    append_records(tmp_path, [RECORD])
    assert link.is_symlink()
    assert len(json.loads(target.read_text())) == 2
