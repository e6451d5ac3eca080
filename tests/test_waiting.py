"""While one waits, the terminal says for what."""

import contextlib
import functools
import importlib
import io
import re
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

from aef_tfp import Autoencoder, terminal
from aef_tfp.callbacks import Heartbeat, heartbeat
from aef_tfp.engine.progress import FittingBar, with_bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_stand_in_for_the_terminal_needs_no_method_to_say_so(monkeypatch):
    monkeypatch.setattr("sys.stdout", object())
    assert with_bar(None, "auto", sorted) is None
    monkeypatch.setattr("sys.stdout", Terminal())
    (bar,) = with_bar(None, "auto", sorted)
    assert isinstance(bar, FittingBar)


def test_a_line_says_what_is_being_done(capsys):
    with terminal.waiting("reading images"):
        assert capsys.readouterr().out == "reading images ...\n"
    with terminal.waiting("reading images", is_shown=False):
        pass
    assert capsys.readouterr().out == ""


def test_in_a_terminal_it_turns_and_goes_away(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr("sys.stdout", stream)
    monkeypatch.setattr(terminal, "_TURN_SECONDS", 0.01)
    with contextlib.suppress(ValueError), terminal.waiting("reading"):
        time.sleep(0.1)
        raise ValueError
    written = stream.getvalue()
    assert written.startswith("\r| reading, 0 s\r/ reading, 0 s")
    *_, last, blank, end = written.split("\r")
    # Blanks, since not every terminal clears a line.
    assert (blank, end) == (" " * len(last), "")
    # Nothing more comes after it.
    time.sleep(0.05)
    assert stream.getvalue() == written


def test_a_step_is_prepared_once_and_a_long_epoch_gets_a_line_a_minute(
    monkeypatch, capsys
):
    now = [0.0]
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: now[0])
    with Heartbeat(lambda epoch: 4 * (epoch + 1), 0, 8, verbose=2) as callback:
        for epoch in range(2):
            callback.on_epoch_begin(epoch)
            for batch in range(4):
                callback.on_train_batch_begin(batch)
                now[0] += 25.0
                callback.on_train_batch_end(batch, {"loss": 1.5})
            callback.on_test_batch_begin(0)
            now[0] += 70.0
            callback.on_test_batch_end(0, {})
            callback.on_epoch_end(epoch)
    assert capsys.readouterr().out.splitlines() == [
        "preparing the training step ...",
        "iteration 3 of 8, loss 1.5",
        "preparing the validation ...",
        "validation at iteration 4: batch 1",
        "iteration 7 of 8, loss 1.5",
        "validation at iteration 8: batch 1",
    ]


@pytest.mark.parametrize("verbose", [0, 1])
def test_a_bar_or_silence_needs_no_lines(verbose, monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: now[0])
    callback = Heartbeat(lambda epoch: 4, 0, 4, verbose=verbose)
    callback.on_epoch_begin(0)
    for batch in range(4):
        callback.on_train_batch_begin(batch)
        now[0] += 100.0
        callback.on_train_batch_end(batch, {"loss": 1.5})
    said = capsys.readouterr().out
    assert said == ("preparing the training step ...\n" if verbose else "")


@pytest.mark.parametrize("verbose", [2, "auto"])
def test_what_takes_long_says_in_a_log_how_far_it_is(verbose, monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    progress = terminal.progress_bar("tuning", 2000, verbose)
    for done in (500, 1000, 1500, 2000):
        now[0] += 35.0
        progress(done)
    assert capsys.readouterr().out == "tuning: 1,000 of 2,000\ntuning: 2,000 of 2,000\n"


def test_what_takes_long_shows_a_bar_in_a_terminal_or_nothing(capsys):
    terminal.progress_bar("tuning", 3, 1)(3)
    assert capsys.readouterr().out.startswith("tuning:\n")
    assert terminal.progress_bar("tuning", 3, 0) is None


def lines_over_each_other(written):
    """What is written over one line, without codes for colours."""
    plain = re.sub(r"\x1b\[\d+m", "", written).replace("\b", "")
    return [line.rstrip(" ") for line in plain.split("\r")[1:]]


@pytest.mark.parametrize(
    ("columns", "bits", "shown"),
    [
        (80, "joint_bits_per_dim", ["loss", "joint_bits_per_dim"]),
        (60, "bits_per_dim", ["loss"]),
        (30, "bits_per_dim", []),
        (140, "bits_per_dim", ["loss", "bits_per_dim", "gradient_norm"]),
    ],
)
@pytest.mark.parametrize("is_epoch", [True, False])
def test_the_bar_of_a_step_fits_into_a_line(
    is_epoch, columns, bits, shown, monkeypatch
):
    stream = Terminal()
    monkeypatch.setattr("sys.stdout", stream)
    monkeypatch.setenv("COLUMNS", str(columns))
    names = ["loss", bits, "gradient_norm", "skipped_updates"]
    bar = FittingBar(lambda given: [name for name in names if name in given])
    bar.set_params({"verbose": 1, "epochs": 1, "steps": 469})
    if is_epoch:
        bar.on_train_begin()
        bar.on_epoch_begin(0)
        draw, end = bar.on_train_batch_end, functools.partial(bar.on_epoch_end, 0)
    else:
        bar.on_test_begin()
        draw, end = bar.on_test_batch_end, bar.on_test_end
    # As a graph gives them, and of every length.
    logs = dict.fromkeys(sorted(names), 0.0)
    bar.progbar.interval = 0.0
    for batch in range(469):
        logs |= {"loss": 999.0 - 13.7 * batch, bits: 8.5 - batch / 100}
        draw(batch, logs)
        # Validations within an epoch are silent.
        bar.on_test_batch_end(0, logs) if is_epoch else None
    *lines, last = lines_over_each_other(stream.getvalue())
    end(logs | {"val_loss": 1.0})
    assert len(lines) == 468
    # Of no room for anything, Keras's own is left.
    assert max(map(len, lines)) <= max(columns - 1, 40)
    for line in [*lines, last]:
        assert re.findall(r"- (\w+):", line) == shown
    final = lines_over_each_other(stream.getvalue())[-1]
    expected = {"loss", bits, "gradient_norm", "val_loss"}
    assert set(re.findall(r"- (\w+):", final)) == expected


def test_updates_that_were_skipped_are_shown(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr("sys.stdout", stream)
    monkeypatch.setenv("COLUMNS", "100")
    bar = FittingBar(lambda given: sorted(given))
    bar.set_params({"verbose": 1, "epochs": 1, "steps": None})
    bar.on_train_begin()
    bar.on_epoch_begin(0)
    bar.progbar.interval = 0.0
    for batch, skipped in enumerate([0.0, 1.0]):
        bar.on_train_batch_end(batch, {"loss": 2.5, "skipped_updates": skipped})
    bar.on_epoch_end(0, {"loss": 2.5, "skipped_updates": 1.0})
    first, *others = lines_over_each_other(stream.getvalue())
    assert "skipped" not in first
    assert len(others) == 2
    assert all("skipped_updates: " in line for line in others)


def test_a_model_has_that_bar_in_a_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    model = Autoencoder((4, 4, 1), 2, encoder="dense", decoder="dense")
    model.compile("sgd")
    images = np.zeros([24, 4, 4, 1], np.uint8)

    def drawn(stream, **options):
        with contextlib.redirect_stdout(stream):
            result = model.fit(images, batch_size=8, validation_data=images, **options)
            model.evaluate(images, batch_size=8, **options)
        # Whatever is shown, callbacks get all.
        assert {"loss", "gradient_norm", "skipped_updates"} < set(result.history)
        return stream.getvalue()

    def longest(**options):
        """The length of what is written over: the last line of an epoch is not."""
        lines = lines_over_each_other(drawn(Terminal(), **options))
        lines = [line for line in lines if "\n" not in line]
        assert any("loss" in line for line in lines)
        return max(map(len, lines))

    assert longest() < 80
    assert longest(callbacks=[keras.callbacks.TerminateOnNaN()]) < 80
    # Bars of the user's own remain, and so does what is no terminal.
    assert longest(callbacks=keras.callbacks.ProgbarLogger()) > 80
    assert "skipped_updates: 0.0" in drawn(io.StringIO(), verbose=2)
    assert drawn(Terminal(), verbose=0) == ""


def test_an_error_in_the_first_step_stops_the_sign(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr("sys.stdout", stream)
    callback = Heartbeat(lambda epoch: 4, 0, 4, verbose=1)
    with contextlib.suppress(FloatingPointError), callback:
        callback.on_train_batch_begin(0)
        raise FloatingPointError
    *_, last, blank, end = stream.getvalue().split("\r")
    assert (blank, end) == (" " * len(last), "")


def test_keras_does_not_bring_what_commands_do_not_use():
    # In a process of its own: here, both are imported already.
    program = """
import sys
from aef_tfp.terminal import import_quietly
import_quietly("tensorflow")
print(*sorted({"keras", "sklearn", "matplotlib", "scipy"} & set(sys.modules)))
from sklearn.datasets import load_digits
print(load_digits().images.shape)
"""
    command = [sys.executable, "-c", program]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    assert finished.stdout.splitlines() == ["keras", "(1797, 8, 8)"]


def test_what_is_absent_comes_back(tmp_path, monkeypatch):
    (tmp_path / "a_package_of_this_test.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    names = ["a_package_of_this_test", "contextlib"]
    with terminal._absent(names):
        with pytest.raises(ImportError):
            importlib.import_module(names[0])
        assert importlib.import_module("contextlib") is contextlib
    assert importlib.import_module(names[0]).__name__ == names[0]
