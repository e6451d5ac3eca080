"""The command line, and the run directory it writes."""

import csv
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from aef_tfp.data import dataset_info
from aef_tfp.pictures import save_png
from aef_tfp.runs.commands import evaluate
from aef_tfp.runs.commands import train as run
from aef_tfp.runs.config import RunConfig
from aef_tfp.runs.presets import DEFAULT_PRESET, PRESETS, get_preset
from aef_tfp.runs.training import build_model

ROOT = Path(__file__).parents[1]

SMALL = [
    "--flow-layers=1",
    "--flow-units=8",
    "--latent-dim=2",
    "--no-jit-compile",
    "--batch-size=32",
    "--steps-per-execution=3",
]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("tfds")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data_dir):
    """A run of 10 iterations with a validation after each 4."""
    run_dir = tmp_path_factory.mktemp("runs") / "straight"
    arguments = [*SMALL, "--iterations=10", "--validation-interval=4"]
    # The last epoch has fewer steps than an execution of the others.
    arguments.append("--steps-per-execution=4")
    assert run.main([*arguments, f"--run-dir={run_dir}", f"--data-dir={data_dir}"]) == 0
    return run_dir


def history(run_dir):
    with (run_dir / "history.csv").open() as file:
        return list(csv.DictReader(file))


def last_weights(run_dir):
    checkpoint = max((run_dir / "checkpoints").glob("iteration-*"))
    import h5py

    values = {}
    with h5py.File(checkpoint / "model.weights.h5") as file:
        file.visititems(
            lambda name, item: (
                values.update({name: item[()]})
                if isinstance(item, h5py.Dataset)
                else None
            )
        )
    return values


def test_run_directory_is_complete(finished):
    names = {p.name for p in finished.iterdir() if not p.name.startswith(".")}
    assert names == {
        "best.keras",
        "checkpoints",
        "config.json",
        "data.json",
        "environment.json",
        "history.csv",
        "metrics.json",
        "per-image",
        "reconstructions.png",
        "samples.png",
        "tensorboard",
    }
    assert RunConfig.from_run(finished).latent_dim == 2
    environment = json.loads((finished / "environment.json").read_text())
    assert environment["packages"]["keras"] == keras.__version__
    assert list((finished / "tensorboard").glob("*/events*"))


def test_history_has_a_row_per_validation(finished):
    rows = history(finished)
    assert [int(row["iteration"]) for row in rows] == [4, 8, 10]
    assert [int(row["epoch"]) for row in rows] == [0, 1, 2]
    assert {"bits_per_dim", "val_bits_per_dim", "loss", "val_loss"} <= set(rows[0])
    # As many steps.
    assert last_weights(finished)["optimizer/vars/0"] == 10


def test_metrics_name_their_estimator(finished):
    records = json.loads((finished / "metrics.json").read_text())
    assert [record["name"] for record in records] == ["log_prob", "bits_per_dim"]
    nats, bits = records
    assert nats["num_images"] == 300
    assert nats["split"] == "test"
    assert nats["estimator"].startswith("exact log-likelihood")
    expected = -nats["value"] / (64 * np.log(2)) + np.log2(17)
    np.testing.assert_allclose(bits["value"], expected, rtol=1e-6)


def test_best_model_is_the_one_of_the_lowest_validation_loss(finished, data_dir):
    from aef_tfp.data import evaluation_batches, load_splits

    model = keras.saving.load_model(finished / "best.keras")
    images = load_splits("digits", data_dir=data_dir).validation.images
    loss = model.evaluate(evaluation_batches(images, 32), verbose=0, return_dict=True)
    best = min(float(row["val_loss"]) for row in history(finished))
    np.testing.assert_allclose(loss["loss"], best, rtol=1e-5)


@pytest.mark.parametrize("name", ["samples.png", "reconstructions.png"])
def test_pictures_show_something(finished, name):
    image = tf.io.decode_png((finished / name).read_bytes()).numpy()
    assert image.shape[1] == 8 * (8 * 4 + 1) + 1
    assert image.std() > 20


def test_a_run_resumed_between_two_validations_keeps_its_count(
    finished, data_dir, tmp_path
):
    run_dir = tmp_path / "longer"
    shared = [f"--data-dir={data_dir}"]
    first = [*SMALL, "--iterations=6", "--validation-interval=4"]
    assert run.main([*first, f"--run-dir={run_dir}", *shared]) == 0
    assert run.main([f"--resume={run_dir}", "--iterations=10", *shared]) == 0
    assert [int(row["iteration"]) for row in history(run_dir)] == [4, 6, 8, 10]
    assert history(run_dir)[-1]["val_loss"] == history(finished)[-1]["val_loss"]
    # Means of 2 and 2 steps, not of those and the validation between.
    _, first, second, _ = (float(row["loss"]) for row in history(run_dir))
    both = float(history(finished)[1]["loss"])
    assert first != second
    np.testing.assert_allclose((first + second) / 2, both, rtol=1e-5)
    expected, got = last_weights(finished), last_weights(run_dir)
    for name, value in expected.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)
    # Each part left its records.
    records = json.loads((run_dir / "metrics.json").read_text())
    assert [record["name"] for record in records] == ["log_prob", "bits_per_dim"] * 2


@pytest.mark.usefixtures("training_alone")
def test_patience_is_counted_in_iterations(data_dir, tmp_path):
    run_dir = tmp_path / "patient"
    arguments = [*SMALL, "--iterations=40", "--validation-interval=2", "--patience=6"]
    # The smallest step size changes nothing: the first validation stays the best.
    arguments += ["--learning-rate=1e-30", f"--run-dir={run_dir}"]
    assert run.main([*arguments, f"--data-dir={data_dir}"]) == 0
    assert [int(row["iteration"]) for row in history(run_dir)] == [2, 4, 6, 8]
    # It has ended: resuming trains no further.
    assert run.main([f"--resume={run_dir}", f"--data-dir={data_dir}"]) == 0
    assert [int(row["iteration"]) for row in history(run_dir)] == [2, 4, 6, 8]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["mnist-aef-linear-33"],
            "Unknown preset 'mnist-aef-linear-33'; close to it: mn",
        ),
        (["svhn-aef-linear-2"], "data set 'svhn' is not one of digits, mnist"),
        (["--dataset", "svhn"], "no data set 'svhn'"),
        (["--iterations", "0"], "iterations must be at least 1, got 0"),
        (["--learning-rate=-1"], "learning_rate must be a positive number, got -1.0"),
        (["--resume", "nowhere"], "nowhere holds no run: it has no config.json"),
        (["--latent-dim", "64"], r"latent_dim must lie in [1, 63]"),
        (["mnist-aef-center-2", "--data-dir", "nowhere"], "nowhere"),
    ],
)
def test_errors_are_one_line(argv, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run.main(argv) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert message in printed
    assert printed.count("\n") == 1
    assert not list(tmp_path.glob("runs/*/*"))


def test_runs_of_one_second_have_directories_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "_new_run_dir", lambda preset: Path("runs/now"))
    made = []

    def train(arguments, run_dir):
        assert run_dir.is_dir()
        made.append(str(run_dir))
        if len(made) < 3:
            assert run.main([]) == 0
            (run_dir / "config.json").touch()
        return 0

    monkeypatch.setattr(run, "_train", train)
    assert run.main([]) == 0
    assert made == ["runs/now", "runs/now-2", "runs/now-3"]
    # The last wrote nothing.
    assert sorted(map(str, Path("runs").iterdir())) == [
        str(Path("runs/now")),
        str(Path("runs/now-2")),
    ]


def test_an_existing_run_is_never_overwritten(finished, capsys):
    before = (finished / "config.json").stat().st_mtime_ns
    assert run.main([f"--run-dir={finished}"]) == 1
    assert "exists and is not empty" in capsys.readouterr().err
    assert (finished / "config.json").stat().st_mtime_ns == before


def test_a_resumed_run_keeps_its_configuration(finished, capsys):
    assert run.main([f"--resume={finished}", "--batch-size=16", "--seed=4"]) == 1
    printed = capsys.readouterr().err
    assert "batch_size (32 -> 16), seed (3 -> 4) would change" in printed


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("digits-vae-8", "leave out the preset digits-vae-8"),
        ("--run-dir=elsewhere", "leave out --run-dir elsewhere"),
        ("--iterations=9", "has gone on to iteration 10 already; --iterations must be"),
    ],
)
def test_a_resumed_run_refuses_what_it_would_ignore(
    argument, message, finished, capsys
):
    paths = [finished / name for name in ("history.csv", "config.json")]
    before = [path.stat().st_mtime_ns for path in paths]
    assert run.main([f"--resume={finished}", argument]) == 1
    assert message in capsys.readouterr().err
    assert [path.stat().st_mtime_ns for path in paths] == before


def test_a_configuration_survives_its_file(tmp_path):
    config = RunConfig(dataset="mnist", latent_dim=5, learning_rate=3e-4)
    (tmp_path / "config.json").write_text(config.to_json())
    assert RunConfig.from_run(tmp_path) == config
    (tmp_path / "config.json").write_text('{"colour": 1}')
    with pytest.raises(ValueError, match="has unknown fields colour"):
        RunConfig.from_run(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is not valid JSON"):
        RunConfig.from_run(tmp_path)


def test_preset_names_say_what_they_are():
    assert DEFAULT_PRESET in PRESETS
    for name, config in PRESETS.items():
        size = str(config.latent_dim)
        if config.model == "pixel-maf":
            size = f"{config.flow_layers}x{config.flow_units}"
        both = (config.core_flow, config.prior_flow) == ("maf", "maf")
        ablations = ("-no-flows", "-only-core", "-only-posterior", "-only-prior")
        ends = ("",) if both else ablations
        if config.expansion_noise:
            ends = ("-noise",)
        assert name in [f"{config.dataset}-{config.model}-{size}{end}" for end in ends]
    assert get_preset("mnist-aef-linear-32").iterations == 100_000


def terminal(*arguments):
    return subprocess.run(
        [sys.executable, str(ROOT / "trainers" / "run.py"), *arguments],
        capture_output=True,
        text=True,
        check=True,
    )


def test_help_and_list_do_not_start_tensorflow():
    script = (
        "import sys; sys.path.insert(0, 'trainers'); import run; run.main(['--list'])\n"
        "assert 'tensorflow' not in sys.modules"
    )
    listed = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True
    )
    assert listed.returncode == 0, listed.stderr
    assert "mnist-aef-center-32" in listed.stdout
    lines = dict(line.split(maxsplit=1) for line in listed.stdout.splitlines())
    assert lines["mnist-vae-32"] == "100000 iterations, batch 128"
    assert lines["npz-vae-32"] == "chosen from your images"
    assert "DATASET-MODEL-LATENT" in terminal("--help").stdout


@pytest.mark.slow
def test_a_reader_who_leaves_gets_no_error():
    # More than a pipe holds at once, so that the end of the reader is seen.
    program = (
        "from aef_tfp.runs.command_line import run_command;"
        "run_command(lambda argv: print('x' * 10**6) or 0, [], '')"
    )
    command = f'{sys.executable} -c "{program}" | head -c 1'
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.stdout == "x"
    assert done.stderr == ""


@pytest.mark.slow
def test_a_folder_of_images_becomes_a_run(tmp_path, capsys, rng):
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(60):
        image = rng.integers(0, 256, size=(9 + i % 5, 12, 3), dtype=np.uint8)
        save_png(photos / f"{i}.png", image)
    (photos / "text.png").write_text("no image")
    run_dir = tmp_path / "run"
    # Without flows, nothing would read how large they are.
    small = [part for part in SMALL if not part.startswith("--flow")]
    small += [f"--data-dir={photos}", f"--run-dir={run_dir}"]
    arguments = ["folder-vae-4", *small, "--iterations=4", "--num-marginal-images=4"]
    arguments += ["--core-flow=none", "--prior-flow=none", "--num-samples=4"]
    assert run.main(arguments) == 1
    assert "text.png" in capsys.readouterr().err
    assert not run_dir.exists()
    assert run.main([*arguments, "--skip-unreadable"]) == 0
    printed = capsys.readouterr().out
    assert "text.png" in printed
    assert "8 x 8" in printed
    config = RunConfig.from_run(run_dir)
    assert (config.dataset, config.networks) == ("folder", "conv")
    # The same images once more, from the settings of the run alone.
    numbers = ["--num-images=4", "--num-samples=4", f"--data-dir={photos}"]
    assert evaluate.main([str(run_dir), *numbers]) == 0
    assert "4 images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("preset", "networks", "settings"),
    [
        ("celebahq64-aef-linear-128", "residual", (16, 1e-4, 1_000_000, 20_000)),
        ("celebahq32-vae-256", "residual", (64, 1e-4, 1_000_000, 20_000)),
        ("imagenet32-aef-linear-128", "residual", (16, 1e-4, 2_000_000, 100_000)),
        ("emnist_letters-aef-corner-2", "conv", (128, 1e-3, 100_000, 0)),
    ],
)
def test_presets_are_those_of_the_paper(preset, networks, settings):
    config = get_preset(preset)
    got = (config.batch_size, config.learning_rate, config.iterations, config.patience)
    assert config.networks == networks
    assert got == settings


def test_a_model_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match=r"model must be one of .*, got 'glow'"):
        build_model(RunConfig(model="glow"), dataset_info("digits"))


def test_a_model_that_no_memory_holds_is_refused():
    config = RunConfig(model="vae", latent_dim=10**12)
    with pytest.raises(ValueError, match="with latent_dim 1000000000000 and flow_unit"):
        build_model(config, dataset_info("digits"))


def test_the_width_of_residual_networks_is_a_setting():
    config = RunConfig(
        latent_dim=3, networks="residual", width=8, core_flow="none", prior_flow="none"
    )
    model = build_model(config, dataset_info("digits"))
    assert model.encoder.network.layers[1].filters == 8
    assert model.decoder.network.layers[1].units == 8
    mixed = dataclasses.replace(config, mixed_precision=True, model="vae")
    assert build_model(mixed, dataset_info("digits")).dtype_policy.name == (
        "mixed_bfloat16"
    )


def test_the_terminal_shows_no_tensorflow_noise(data_dir, tmp_path):
    arguments = [*SMALL, "--iterations=2", f"--run-dir={tmp_path / 'run'}"]
    done = terminal(*arguments, f"--data-dir={data_dir}")
    assert done.stderr == ""
    for noise in ("I0000", "WARNING", "Warning", "cuda", "oneDNN"):
        assert noise not in done.stdout


@pytest.mark.realdata
def test_mnist_trains_from_its_data_directory(tmp_path, training_alone):
    import os

    run_dir = tmp_path / "mnist"
    arguments = ["mnist-aef-linear-32", "--iterations=60", "--validation-interval=60"]
    place = f"--data-dir={os.environ['AEF_TFP_DATA_DIR']}"
    assert run.main([*arguments, f"--run-dir={run_dir}", place]) == 0
    (row,) = history(run_dir)
    # Far below the 8 bits of a uniform density; 2.0 comes after 500 iterations.
    assert float(row["val_joint_bits_per_dim"]) < 3.5

    argv = [str(run_dir), "--num-images=64", "--num-samples=16", place]
    bounds = []
    for proposal in ("encoder", "laplace"):
        assert evaluate.main([*argv, f"--proposal={proposal}"]) == 0
        records = json.loads((run_dir / "metrics.json").read_text())
        by_name = {record["name"]: record for record in records}
        assert by_name["marginal_log_prob"]["proposal"] == proposal
        bounds.append(by_name["marginal_log_prob"]["value"])
    assert bounds[1] > bounds[0]


@pytest.mark.realdata
def test_faces_train_with_residual_networks(tmp_path, training_alone):
    import os

    run_dir = tmp_path / "faces"
    argv = ["celeba10k32-aef-linear-64", "--latent-dim=16", "--no-jit-compile"]
    argv += ["--iterations=40", "--validation-interval=20"]
    argv += ["--learning-rate=1e-3", "--rematerialize"]
    argv += [f"--data-dir={os.environ['AEF_TFP_DATA_DIR']}", f"--run-dir={run_dir}"]
    assert run.main(argv) == 0
    rows = history(run_dir)
    first, second = (float(row["val_loss"]) for row in rows)
    assert second < first
    assert {float(row["skipped_updates"]) for row in rows} == {0.0}


@pytest.mark.parametrize(
    ("networks", "width", "start"),
    [("residual", None, 1.0), ("residual", 4, 1.0), ("conv", None, 0.0)],
)
def test_the_decoders_scale_starts_as_the_papers(networks, width, start):
    # A width of d is the default: the same model by another way.
    config = RunConfig(
        latent_dim=4,
        networks=networks,
        width=width,
        model="vae",
        core_flow="none",
        prior_flow="none",
    )
    model = build_model(config, dataset_info("digits"))
    np.testing.assert_array_equal(model.decoder.raw_scale, np.full((8, 8, 1), start))
    # A copy without the weights starts there, too, although its networks are objects.
    copy = type(model).from_config(model.get_config())
    np.testing.assert_array_equal(copy.decoder.raw_scale, model.decoder.raw_scale)


def test_an_initial_scale_that_is_no_number_is_refused():
    from aef_tfp import VAE

    with pytest.raises(ValueError, match="initial_raw_scale must be a finite number"):
        VAE((8, 8, 1), 2, initial_raw_scale=float("nan"))
    model = VAE((8, 8, 1), 2, initial_raw_scale=-3, prior_flow="none")
    assert model.decoder.raw_scale.numpy().max() == -3.0


def spoiled(argv, message_parts, tmp_path, capsys):
    """Runs a command that must fail with one line, and leave nothing behind."""
    run_dir = tmp_path / "run"
    # Were it to run, it would not run for long.
    short = ["--iterations=2", "--num-marginal-images=2", "--num-samples=2", *SMALL]
    assert run.main([*argv, f"--run-dir={run_dir}", *short]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert printed.count("\n") == 1
    for part in message_parts:
        assert part in printed
    assert not run_dir.exists()


@pytest.mark.parametrize(
    ("argv", "message_parts"),
    [
        (
            ["celebahq64-aef-linear-128", "--data-dir={empty}"],
            [
                "there is no data set 'celebahq64' in '{empty}'",
                "(0.jpg to 29999.jpg of CelebAMask-HQ, https://",
                "into {empty}/downloads/manual/celeba_hq",
                "CelebA-HQ-to-CelebA-mapping.txt",
                "list_eval_partition.txt (from CelebA, https://",
            ],
        ),
        (
            ["digits-vae-8", "--data-dir={grey}.tfds"],
            ["there is no directory '{grey}.tfds'", "--data-dir"],
        ),
        (
            ["folder-vae-4", "--data-dir={empty}"],
            ["there are no images in '{empty}'", "end in .png, .apng, .jpg"],
        ),
        (
            ["folder-vae-4", "--data-dir={grey}", "--channels=3"],
            ["channels is 3, but all 10 images are grey", "--channels 1"],
        ),
        (
            ["folder-vae-4", "--data-dir={grey}.npz", "--channels=1"],
            ["no folder '{grey}.npz'", "--data-dir"],
        ),
        (
            ["digits-vae-8", "--channels=3", "--data-dir={empty}"],
            ["channels is 3, but the images of data set 'digits' have 1: leave it out"],
        ),
        (
            [
                "folder-vae-4",
                "--data-dir={grey}",
                "--image-size=22",
                "--networks=residual",
            ],
            [
                "a power of two, or one times 3, 5 or 7, got a side of 22",
                "--image-size",
            ],
        ),
    ],
)
def test_images_that_do_not_serve_end_in_one_line(
    tmp_path, capsys, rng, argv, message_parts
):
    names = {"empty": tmp_path / "empty", "grey": tmp_path / "grey"}
    for path in names.values():
        path.mkdir()
    for i in range(10):
        image = rng.integers(0, 256, size=(24, 24, 1), dtype=np.uint8)
        save_png(names["grey"] / f"{i}.png", image)
    argv, message_parts = (
        [part.format(**names) for part in parts] for parts in (argv, message_parts)
    )
    spoiled(argv, message_parts, tmp_path, capsys)


def test_a_partition_list_of_other_images_ends_in_one_line(
    tmp_path, capsys, monkeypatch
):
    from aef_tfp.data import celeba_hq

    monkeypatch.setattr(celeba_hq, "_NUM_IMAGES", 4)
    manual = tmp_path / "downloads" / "manual" / "celeba_hq"
    manual.mkdir(parents=True)
    for i in range(4):
        save_png(manual / f"{i}.png", np.zeros((8, 8, 3), np.uint8))
    lines = [f"{i} {i} 00000{i}.jpg\n" for i in range(3)]
    (manual / "CelebA-HQ-to-CelebA-mapping.txt").write_text("".join(lines))
    lines = [f"00000{i}.jpg 0\n" for i in range(4)]
    (manual / "list_eval_partition.txt").write_text("".join(lines))
    spoiled(
        ["celebahq32-vae-64", f"--data-dir={tmp_path}"],
        ["does not match the images: it has no image 3 (3.png)", "fetch the list"],
        tmp_path,
        capsys,
    )
