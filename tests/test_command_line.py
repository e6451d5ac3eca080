"""Command lines: every word is read, or refused in one line; none needs TensorFlow."""

import configparser
import contextlib
import dataclasses
import json
import os
import pkgutil
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

import aef_tfp
from aef_tfp import __main__
from aef_tfp.data.registry import DATASETS
from aef_tfp.runs import commands
from aef_tfp.runs.command_line import ending_with_output, parse
from aef_tfp.runs.commands import COMMANDS, evaluate, export, presets, reproduce
from aef_tfp.runs.commands import train as run
from aef_tfp.runs.config import EvaluationConfig, RunConfig, RunSettings
from aef_tfp.runs.kinds import KINDS, ModelName
from aef_tfp.runs.presets import PRESETS, get_preset
from aef_tfp.runs.unread import unread_by_evaluation, unread_by_run
from aef_tfp.terminal import as_typed

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "trainers"))
import launch  # noqa: E402

SCRIPTS = {
    "run": run,
    "evaluate": evaluate,
    "export": export,
    "launch": launch,
    "reproduce": reproduce,
}


@pytest.fixture(autouse=True)
def nothing_starts(monkeypatch, tmp_path):
    """A run, an evaluation or a worker that starts is an error of its own."""

    def fail(*args, **kwargs):
        raise AssertionError("it was not refused")

    for script in SCRIPTS.values():
        if hasattr(script, "import_quietly"):
            monkeypatch.setattr(script, "import_quietly", fail)
    monkeypatch.setattr(launch, "_start", fail)
    monkeypatch.setattr(reproduce.paper, "bring_up_to_date", fail)
    monkeypatch.setattr(reproduce.paper, "count_weights", fail)
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)


def refused(script, argv, capsys):
    """The one line that a command line is refused with."""
    assert SCRIPTS[script].main(argv) in (1, 2)
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert printed.out == ""
    return printed.err


def run_of(directory, **settings):
    path = Path(directory)
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(RunConfig(**settings).to_json())
    return path


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["mnsit-aef"], "its data set 'mnsit' is not one of"),
        (["--seed", "3", "mnsit-aef"], "Unknown preset 'mnsit-aef'"),
        (["--download", "mnist-aef-linear-33"], "Unknown preset 'mnist-aef-linear-33'"),
        (["--jit-compile", "digits-aef"], "Unknown preset 'digits-aef'; close"),
        (["--seed=3", "--", "--schedule=cosine"], "-- separates nothing here"),
        (["--no-jit-compile", "no"], "Unknown preset 'no'"),
        # Not the value of an option, although it is a preset.
        (["--run-dir", "digits-vae-8", "digits-vae"], "Unknown preset 'digits-vae';"),
        (["npz"], "close to it: npz-"),
        (["digits-vae-8", "mnist-vae-8"], "unrecognized options: mnist-vae-8"),
        (["--jit-compile=3"], "--jit-compile takes no value, got '3'"),
        (["--download=no"], "--download takes no value, got 'no'"),
        (["--seed"], "missing value for argument '--seed'"),
        (["--seed", "--model", "vae"], "missing value for argument '--seed'"),
        (["--resume"], "missing value for argument '--resume'"),
        (["--resume="], "--resume has no value"),
        (["--resume", ""], "got an empty argument after --resume"),
        (["--run-dir", " "], "got an empty argument after --run-dir"),
        (
            ["--seed", "three"],
            "--seed: invalid literal for int() with base 10: 'three'",
        ),
        (
            ["--model", "gan"],
            "invalid choice 'gan' for argument '--model'. Expected one",
        ),
        (["--sed", "3"], "unrecognized options: --sed, 3, did you mean --seed INT?"),
        (["--list", "digits-vae-8"], "leave out digits-vae-8"),
        (["--list", "--seed=3"], "leave out --seed"),
        (["--run-dir=caf\udce9"], r"must be UTF-8, got b'caf\xe9': rename"),
    ],
)
def test_a_run_is_what_was_typed_or_nothing(argv, message, capsys, tmp_path):
    assert message in refused("run", argv, capsys)
    assert not list(tmp_path.iterdir())


def test_images_named_in_place_of_a_preset_get_one(capsys, tmp_path):
    (tmp_path / "my photos").mkdir()
    (tmp_path / "faces.NPZ").touch()
    (tmp_path / "a.png").touch()
    for name, preset in (("my photos", "folder"), ("faces.NPZ", "npz")):
        path = str(tmp_path / name)
        advice = f"{preset}-aef-linear-32 --data-dir {shlex.quote(path)}\n"
        assert f"for your own images pass {advice}" in refused("run", [path], capsys)
        assert get_preset(advice.split()[0]).dataset == preset
    for name in ("a.png", "mnsit-aef"):
        said = refused("run", [str(tmp_path / name)], capsys)
        assert "Your own images take folder-aef-linear-32 --data-dir FOLDER." in said


def test_the_home_directory_is_where_no_shell_expands_it(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    argv = ["runs/~", "~/run", "--anomalies=~/photos"]
    arguments = parse(evaluate.Arguments, argv, "")
    assert list(map(str, arguments.runs)) == ["runs/~", str(tmp_path / "run")]
    assert arguments.config.anomalies == str(tmp_path / "photos")
    assert parse(evaluate.Arguments, ["~me/x"], "").runs == (Path("~me/x"),)


def test_a_preset_may_come_after_options():
    for argv in (["--seed", "5", "mnist-vae-8"], ["mnist-vae-8", "--seed=5"]):
        command = run.read_command(argv)
        assert command.arguments.config == RunConfig.of(
            get_preset("mnist-vae-8"), seed=5
        )
        assert command.run_dir.name.startswith("mnist-vae-8-")
    # The value of an option is no preset.
    command = run.read_command(["--run-dir", "digits-vae-8"])
    assert command.arguments.config == get_preset("digits-aef-center-8")
    assert command.run_dir == Path("digits-vae-8")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["digits-pixel-maf-4x256", "--latent-dim=8"], "--latent-dim (a pixel-maf has"),
        (
            ["digits-vae-8", "--model=pixel-maf", "--latent-dim=5"],
            "--latent-dim (a pix",
        ),
        (["digits-pixel-maf-4x256", "--networks=conv"], "--networks (a pixel-maf has"),
        (["digits-pixel-maf-4x256", "--mixed-precision"], "--mixed-precision (a pixel"),
        (["digits-pixel-maf-4x256", "--core_flow", "maf"], "--core-flow (a pixel-maf"),
        (["digits-autoencoder-8", "--prior-flow=none"], "--prior-flow (an autoencoder"),
        (["digits-autoencoder-8", "--decoder-scale=fixed"], "--decoder-scale (an auto"),
        (["digits-autoencoder-8", "--flow-layers=2"], "--flow-layers (an autoencoder"),
        (
            ["digits-vae-8", "--core-flow=none", "--prior-flow=none", "--flow-units=9"],
            "--flow-units (both flows are none)",
        ),
        (["digits-vae-8", "--num-importance-samples=9"], "(it is for an iwae)"),
        (["digits-vae-8", "--expansion-noise=0"], "(it is for an aef-linear)"),
        (
            ["digits-aef-center-8", "--num-samples=9"],
            "the likelihood of an aef-center is",
        ),
        (["digits-autoencoder-8", "--num-marginal-images=9"], "has no likelihood"),
        (["digits-vae-8", "--denoising-target=clean"], "without --noise-std no image"),
        (
            ["digits-vae-8", "--download"],
            "--download (the digits come with an installed",
        ),
        (
            ["folder-vae-8", "--download"],
            "--download (the images of folder are your own",
        ),
        (["celebahq32-vae-64", "--download"], "--download (nothing can download celeb"),
        (["digits-vae-8", "--no-rematerialize"], "residual networks, not conv ones"),
        (["npz-vae-8", "--no-skip-unreadable"], "(it is for the data set folder)"),
    ],
)
def test_an_option_that_a_run_would_not_read_is_refused(argv, message, capsys):
    assert message in refused("run", argv, capsys)


def test_every_option_is_read_by_some_run():
    names = [*RunConfig.__dataclass_fields__, "download"]
    runs = [
        RunConfig.of(get_preset("mnist-iwae-8"), noise_std=0.5),
        RunConfig(dataset="folder", networks="residual", model="aef-linear"),
    ]
    unread = [set(unread_by_run(config, names)) for config in runs]
    assert not set.intersection(*unread)


def test_no_preset_is_refused():
    kinds = {}
    for name in PRESETS:
        config = get_preset(name)
        config.check()
        assert not unread_by_run(config, ())
        # The number of latents is all that differs in a kind. To read one takes long.
        kinds[re.sub(r"-\d+(?=-|$)", "-", name)] = name
    assert len(kinds) > len(DATASETS)
    for name in kinds.values():
        assert run.read_command([name]).arguments.config == get_preset(name)


@pytest.mark.parametrize(
    ("settings", "argv", "message"),
    [
        ({}, ["--proposal=encoder"], "--proposal (the likelihood of an aef-center is"),
        ({"model": "pixel-maf"}, ["--num-repeats=2"], "of a pixel-maf is exact"),
        ({"model": "autoencoder"}, ["--num-samples=2"], "an autoencoder has no likeli"),
        (
            {"model": "vae"},
            ["--inception-weights=w"],
            "(it is for --frechet inception)",
        ),
        (
            {"model": "vae"},
            ["--frechet=classifier", "--inception-weights=w"],
            "(it is for --frechet inception)",
        ),
        (
            {"model": "vae"},
            ["--proposal=none", "--num-samples=9"],
            "--num-samples (there is no estimate)",
        ),
        ({"model": "vae"}, ["--temperature=1"], "--temperature (without --frechet or"),
        ({"model": "vae"}, ["--num-frechet-images=9"], "or --inspect no samples"),
        (
            {"model": "autoencoder"},
            ["--frechet=classifier", "--temperature=0.5"],
            "--temperature (an autoencoder draws no samples)",
        ),
        ({}, ["--paper-estimator"], "--paper-estimator (the likelihood of an aef-cent"),
        ({"model": "vae"}, ["--paper-estimator"], "(the paper's code keeps - log K of"),
        (
            {"model": "autoencoder"},
            ["--frechet=classifier", "--num-frechet-images=9"],
            "--num-frechet-images (an autoencoder draws no samples)",
        ),
        ({}, ["--annealed-steps=9"], "--annealed-steps (the likelihood of an aef-"),
        ({}, ["--download"], "--download (the digits come with"),
        ({}, ["again"], "evaluate one run at a time, got 2"),
        ({}, ["--compare", "--seed=3"], "leave out --seed"),
        ({}, ["run", "--compare"], "run is named twice"),
        ({}, ["--compare", "run"], "run is named twice"),
        ({}, ["run/../run", "--compare"], "run is named twice"),
        ({}, ["--num-images"], "missing value for argument '--num-images'"),
    ],
)
def test_an_option_that_an_evaluation_would_not_read_is_refused(
    settings, argv, message, capsys
):
    run_of("run", **settings)
    assert message in refused("evaluate", ["run", *argv], capsys)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "missing"),
        (["--compare"], "--compare compares runs, got none"),
    ],
)
def test_an_evaluation_of_nothing_is_refused(argv, message, capsys):
    if argv:
        assert message in refused("evaluate", argv, capsys)
    else:
        assert "got 0" in refused("evaluate", argv, capsys)


def test_reconstructions_of_an_autoencoder_are_judged_of_so_many_images():
    config = EvaluationConfig(inspect=True, num_frechet_images=9)
    run = RunConfig(model="autoencoder")
    assert not unread_by_evaluation(config, run, ["inspect", "num_frechet_images"])


def test_every_option_is_read_by_some_evaluation():
    names = [*EvaluationConfig.__dataclass_fields__, "download"]
    unread = [
        unread_by_evaluation(
            EvaluationConfig(frechet=features),
            RunConfig(model="aef-linear", dataset="mnist"),
            names,
        )
        for features in ("inception", "classifier")
    ]
    assert not unread[0].keys() & unread[1].keys()


def test_what_is_read_beside_the_run_may_be_downloaded():
    run = RunConfig(model="vae", dataset="digits")
    for other in ({"anomalies": "mnist"}, {"classifier_dataset": "mnist"}):
        config = EvaluationConfig(frechet="classifier", **other)
        assert not unread_by_evaluation(config, run, ["download", *other])
    assert unread_by_evaluation(EvaluationConfig(), run, ["download"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--list", "--dataset=mnist"], "reads no --dataset"),
        (["--table=1", "--list", "--seeds=2"], "--list reads no --seeds"),
        (["--table=3", "--frechet=classifier"], "trains nothing, reads no --frechet"),
        (["--table=4", "--dry-run", "--iterations=9"], "reads no --iterations"),
        (
            ["--table=1", "--inception-weights=w"],
            "--inception-weights (it is for --frechet inception)",
        ),
        (
            ["--figure=5", "--model=aef-center", "--num-samples=9"],
            "--num-samples (the likelihood of an aef-center is exact)",
        ),
        (
            ["--table=1", "--model=vae", "--paper-estimator"],
            "--paper-estimator (no row is the BPD of an aef-linear)",
        ),
        (["--table=6", "--dataset=celebahq32", "--download"], "nothing can download"),
        (["--table"], "missing value for argument '--table'"),
        (["--table=1", "mnist"], "unrecognized options: mnist"),
        (["--table=1", "--dry-run=yes"], "--dry-run takes no value, got 'yes'"),
    ],
)
def test_an_option_that_a_reproduction_would_not_read_is_refused(argv, message, capsys):
    assert message in refused("reproduce", argv, capsys)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--workers=2", "mnsit-aef"], "Unknown preset 'mnsit-aef'"),
        (["--workers", "2", "--seed"], "missing value for argument '--seed'"),
        (["--workers"], "missing value for argument '--workers'"),
        (["--worker=2"], "unrecognized options: --worker=2"),
        (["--strategy=none"], "With --strategy none each worker would train alone"),
        (["--list"], "--list is for run.py"),
        (["digits-pixel-maf-4x256", "--latent-dim=5"], "a pixel-maf has no latents"),
        (["--resume=nowhere"], "nowhere holds no run"),
    ],
)
def test_the_launcher_says_once_what_is_wrong(argv, message, capsys):
    assert message in refused("launch", argv, capsys)


def test_the_launcher_replaces_no_cluster(capsys, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "{}")
    assert "TF_CONFIG is set" in refused("launch", [], capsys)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["run"], "error: missing OUT; --help shows"),
        ([], "error: missing RUN, OUT; --help shows"),
        (["run", "out", "more"], "unrecognized options: more"),
        (["run", "out", "--format=onnx"], "invalid choice 'onnx'"),
        (["nowhere", "out"], "nowhere holds no run"),
        (["nowhere", "caf\udce9"], r"must be UTF-8, got b'caf\xe9': rename"),
    ],
)
def test_an_export_is_what_was_typed(argv, message, capsys):
    assert message in refused("export", argv, capsys)


JUNK = b"\x89\x00\xff\xfe junk \x80"
SPOILED = [
    (b"", "is not valid JSON"),
    (JUNK, "is not valid JSON"),
    (b'{"seed": 3', "is not valid JSON"),
    (b"[" * 100_000, "is not valid JSON"),
    (b"3", "is no configuration: it holds 3"),
    (b"null", "is no configuration: it holds None"),
    (b"{}", "lacks fields "),
    (b'{"colour": 1}', "has unknown fields colour"),
    (b'{"latent_dim": "8"}', "has latent_dim = '8', which it cannot be"),
]


@pytest.mark.parametrize(("data", "message"), SPOILED)
@pytest.mark.parametrize(
    ("script", "argv"),
    [
        ("run", ["--resume=run"]),
        ("launch", ["--resume=run"]),
        ("evaluate", ["run"]),
        ("export", ["run", "out"]),
    ],
)
def test_a_spoiled_configuration_is_named(script, argv, data, message, capsys):
    (run_of("run") / "config.json").write_bytes(data)
    line = refused(script, argv, capsys)
    assert "error: run/config.json " in line
    assert message in line
    assert line.endswith("Put back a copy of it.\n")


def test_a_configuration_of_an_older_version_means_the_defaults():
    path = run_of("run") / "config.json"
    known = json.loads(path.read_text())
    del known["bit_depth"]
    path.write_text(json.dumps(known))
    assert RunConfig.from_run(path.parent).bit_depth is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"iterations": -5}, "cannot be: iterations must be at least 1, got -5"),
        ({"dataset": "svhn"}, "cannot be: there is no data set 'svhn'"),
        ({"learning_rate": float("inf")}, "learning_rate must be a positive number"),
        ({"seed": True}, "has seed = True, which it cannot be"),
        ({"seed": 2**40}, "seed must be at most"),
        ({"iterations": 10**30}, "iterations must be at most 2**31 - 1, got 10"),
        ({"channels": True}, "has channels = True, which it cannot be"),
    ],
)
def test_a_configuration_out_of_range_is_named(changes, message, capsys):
    path = run_of("run") / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    line = refused("evaluate", ["run"], capsys)
    assert "run/config.json" in line
    assert message in line


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (RunConfig(model="glow"), "model must be one of 'aef-center', .*, got 'glow'"),
        (RunConfig(channels=2), "channels must be one of 1, 3, got 2"),
        (RunSettings(networks="resnet"), "networks must be one of .*, got 'resnet'"),
        (EvaluationConfig(proposal="exact"), "proposal must be .*, got 'exact'"),
    ],
)
def test_settings_that_are_none_of_a_few_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        settings.check()


def test_names_of_settings_may_come_from_an_array():
    RunSettings(model=np.array(["vae"])[0]).check()


def test_what_never_happens_may_have_any_interval():
    names = ("validation_interval", "log_interval", "picture_interval")
    RunConfig(**dict.fromkeys((*names, "keep_checkpoints"), 10**10)).check()


def test_each_name_of_a_model_has_its_kind():
    assert list(KINDS) == list(get_args(ModelName))
    settings = {field.name for field in dataclasses.fields(RunSettings)}
    assert all(settings.issuperset(kind.own_settings) for kind in KINDS.values())


def test_a_reproduction_names_spoiled_files_of_its_runs(capsys):
    argv = ["--table=1", "--dataset=mnist", "--model=vae", "--latent-dim=2"]
    name = "mnist-vae-2-seed3"
    (row,) = reproduce.paper.EXHIBITS["table-1"].select(
        dataset="mnist", model="vae", latent_dim=2
    )
    directory = Path("runs/reproduce") / name
    checkpoint = directory / "checkpoints" / "iteration-00000007"
    checkpoint.mkdir(parents=True)
    (directory / "checkpoints" / "iteration-old").mkdir()
    state = checkpoint / "state.json"
    for path, data, message in (
        (directory / "config.json", b"{", "config.json is not valid JSON"),
        (state, JUNK, "state.json is not valid JSON"),
        (state, b"[3]", "state.json is no state of a run"),
        (directory / "best.keras", b"PK", "best.keras is no whole model file"),
        (directory / "metrics.json", b"{}", "metrics.json is no list of records"),
        (directory / "metrics.json", JUNK, "metrics.json is no list of records"),
    ):
        (directory / "config.json").write_text(row.config.to_json())
        state.write_text('{"best_iteration": 7}')
        path.write_bytes(data)
        line = refused("reproduce", argv, capsys)
        assert message in line
        assert name in line
        path.unlink()


def test_refusals_do_not_start_tensorflow():
    script = (
        "import sys; sys.path.insert(0, 'trainers')\n"
        "import run, evaluate, launch, export, reproduce\n"
        "assert run.main(['--seed', '3', 'mnsit-aef']) == 1\n"
        "assert run.main(['--seed']) == 2\n"
        "assert run.main(['digits-pixel-maf-4x256', '--latent-dim=5']) == 1\n"
        "assert evaluate.main(['x', '--inception-weights=w']) == 1\n"
        "assert evaluate.main(['--compare', 'x', 'x']) == 1\n"
        "assert launch.main(['mnsit-aef']) == 1\n"
        "assert export.main(['nowhere', 'out']) == 1\n"
        "assert evaluate.main(['nowhere']) == 1\n"
        "assert evaluate.main(['--compare', 'nowhere']) == 1\n"
        "assert run.main(['--resume=nowhere']) == 1\n"
        "assert run.main(['mnist-vae-2', '--data-dir=nowhere']) == 1\n"
        "assert run.main(['folder-vae-2', '--data-dir=nowhere']) == 1\n"
        "assert run.main(['npz-vae-2', '--data-dir=nowhere']) == 1\n"
        "assert run.main(['folder-vae-2']) == 1\n"
        "assert reproduce.main(['--table=3', '--seeds=2']) == 1\n"
        "assert 'tensorflow' not in sys.modules"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_terminal_gets_the_status_of_other_parsers():
    command = [sys.executable, "trainers/run.py", "--seed"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == (
        "error: missing value for argument '--seed'. Expected 1 values; --help shows "
        "all options.\n"
    )


@pytest.mark.parametrize(
    ("options", "is_compiled"),
    [
        (["--iterations=999"], False),
        (["--iterations=1000"], True),
        (["--iterations=10", "--jit-compile"], True),
        (["--iterations=5000", "--no-jit-compile"], False),
    ],
)
def test_few_steps_are_not_compiled_unless_asked_for(options, is_compiled):
    command = run.read_command(["mnist-vae-2", *options])
    assert command.arguments.config.jit_compile is is_compiled


def test_a_resumed_run_stays_compiled_as_it_began():
    path = run_of("run") / "config.json"
    known = json.loads(path.read_text())
    path.write_text(json.dumps({**known, "iterations": 50, "jit_compile": True}))
    command = run.read_command(["--resume=run", "--iterations=60"])
    assert command.arguments.config.jit_compile is True


@pytest.mark.parametrize("environment", [{}, {"PYTHONIOENCODING": "ascii"}])
def test_a_terminal_that_cannot_show_a_text_stops_nothing(environment):
    code = "from aef_tfp.runs.command_line import run_command as run\n"
    code += "def say(argv):\n    print('\\u00fc', flush=True)\n    return 0\n"
    code += "raise SystemExit(run(say, [], ''))"
    command = [sys.executable, "-c", code]
    if not environment:
        # Nobody listens, as for a job of cron.
        command = ["sh", "-c", 'exec "$@" >&-', "sh", *command]
    environment = {**os.environ, "PYTHONUTF8": "0", **environment}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == ("\\xfc\n" if "PYTHONIOENCODING" in environment else "")


def test_no_file_takes_the_place_of_a_closed_stream():
    code = "from aef_tfp.runs.command_line import run_command as run\nimport os\n"
    code += "run(lambda argv: os.open('/dev/zero', os.O_RDONLY), [], '')\n"
    code += "raise SystemExit(os.path.samefile('/dev/fd/0', '/dev/zero'))"
    command = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-c", code]
    assert subprocess.run(command).returncode == 0


@pytest.mark.parametrize("has_errors", [True, False])
def test_who_is_cut_off_from_the_output_is_asked_to_end(has_errors, capsys):
    asked = []
    former = signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    # They cannot be closed as others; the standard error writes each line at once.
    full = open("/dev/full", "w")  # noqa: SIM115
    other = sys.stderr
    if not has_errors:
        other = open("/dev/full", "w", buffering=1)  # noqa: SIM115
    try:
        errors = contextlib.redirect_stderr(other)
        with contextlib.redirect_stdout(full), errors, ending_with_output():
            print("one", flush=True)
            print("two", flush=True)
    finally:
        signal.signal(signal.SIGTERM, former)
        # What is left in its buffer goes nowhere.
        full.close()
        if not has_errors:
            with contextlib.suppress(OSError):
                other.close()
    assert asked == [signal.SIGTERM]
    told = "the standard output cannot be written: No space left on device\n"
    assert capsys.readouterr().err == told * has_errors


def test_an_output_that_cannot_be_written_is_named():
    command = [sys.executable, "-m", "aef_tfp", "presets"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    told = "error: the standard output cannot be written: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, told)


# The commands of the package.

TWO = ("train", "presets")


def test_a_command_gets_its_arguments(monkeypatch, capsys):
    assert __main__.main(["presets"]) == 0
    assert capsys.readouterr().out == presets.preset_list() + "\n"
    assert run.main(["--list"]) == 0
    assert capsys.readouterr().out == presets.preset_list() + "\n"
    monkeypatch.setattr(sys, "argv", ["aef-tfp", "train", "mnsit-aef"])
    monkeypatch.setenv("COLUMNS", "80")
    assert __main__.main() == 1
    assert "its data set 'mnsit' is not one of" in capsys.readouterr().err
    for name in COMMANDS:
        with pytest.raises(SystemExit, match="0"):
            __main__.main([name, "--help"])
        printed = capsys.readouterr().out
        assert f"usage: aef-tfp {name} [-h]" in printed
        assert max(map(len, printed.splitlines())) <= 80


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            [],
            "a command is missing; name one of train, evaluate, export, ",
        ),
        (["trian", "x"], "there is no command 'trian'; did you mean train? The comma"),
        (["run"], "there is no command 'run'; did you mean train?"),
        (["zebra"], "there is no command 'zebra'; the commands are train, evaluate, "),
        (["--seed=3"], "there is no option '--seed=3'; the commands are train"),
        (["presets", "mnist"], "unrecognized options: mnist"),
        (["train", "--seed"], "missing value for argument '--seed'"),
    ],
)
def test_no_command_is_one_line(argv, message, capsys):
    assert __main__.main(argv) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: {message}")
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_a_wheel_has_the_command_and_every_package():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    scripts = settings["options.entry_points"]["console_scripts"]
    assert scripts.strip() == "aef-tfp = aef_tfp.__main__:main"
    # What `find:` takes for one.
    folders = {path.parent for path in (ROOT / "aef_tfp").rglob("*.py")}
    assert all((folder / "__init__.py").is_file() for folder in folders)


def test_help_and_version_of_all_commands(capsys):
    assert __main__.main(["--help"]) == 0
    printed = capsys.readouterr().out
    for name, what in COMMANDS.items():
        assert f"{name:<9}  {what}\n" in printed
    assert __main__.main(["--version"]) == 0
    assert capsys.readouterr().out == f"aef_tfp {aef_tfp.__version__}\n"


def test_every_module_of_commands_is_a_command():
    found = {module.name for module in pkgutil.iter_modules(commands.__path__)}
    assert found == set(COMMANDS)


@pytest.mark.parametrize(
    ("started", "trains", "lists"),
    [
        ("/usr/bin/aef-tfp", "aef-tfp train", "aef-tfp presets"),
        ("", "aef-tfp train", "aef-tfp presets"),
        ("my/run.py", "aef-tfp train", "aef-tfp presets"),
        ("x/aef_tfp/__main__.py", *("python -m aef_tfp " + n for n in TWO)),
        ("trainers/evaluate.py", "python trainers/run.py", "aef-tfp presets"),
        ("trainers/launch.py", "python trainers/run.py", "aef-tfp presets"),
        ("trainers/mine.py", "aef-tfp train", "aef-tfp presets"),
    ],
)
def test_a_command_is_named_as_it_was_typed(started, trains, lists, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", [started, "other", "words"])
    assert as_typed("train") == trains
    assert as_typed("presets") == lists
    words = as_typed("train", "--resume", Path("my runs"))
    assert words == f"{trains} --resume 'my runs'"


@pytest.mark.parametrize(
    ("started", "begins"),
    [
        (["trainers/reproduce.py"], "python trainers/run.py "),
        (["-m", "aef_tfp", "reproduce"], "python -m aef_tfp train "),
    ],
)
def test_a_dry_run_prints_what_can_be_typed(started, begins):
    argv = ["--table=1", "--dataset=mnist", "--dry-run"]
    command = [sys.executable, *started, *argv]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(begins)


def test_the_package_answers_without_tensorflow():
    script = (
        "import sys; from aef_tfp.__main__ import main\n"
        "assert main(['--help']) == 0\n"
        "assert main(['trian']) == 2\n"
        "assert main(['presets']) == 0\n"
        "assert main(['train', 'mnsit-aef']) == 1\n"
        "assert main(['evaluate', 'nowhere']) == 1\n"
        "assert main(['export', 'nowhere', 'out']) == 1\n"
        "assert main(['reproduce', '--list']) == 0\n"
        "assert 'tensorflow' not in sys.modules"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
