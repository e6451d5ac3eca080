"""Evaluation of runs: records, tables, the command line."""

import contextlib
import csv
import io
import json
import shutil
import tracemalloc
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import aef_tfp
from aef_tfp import data, metrics
from aef_tfp.callbacks import Pictures
from aef_tfp.metrics import Record
from aef_tfp.metrics.records import records_of_means
from aef_tfp.models import VAE, Autoencoder
from aef_tfp.records import read_per_image
from aef_tfp.runs.commands import evaluate
from aef_tfp.runs.commands import train as run
from aef_tfp.runs.config import EvaluationConfig, RunConfig
from aef_tfp.runs.evaluation import evaluate_run, load_run_splits

ROOT = Path(__file__).parents[1]

SMALL = ["--no-jit-compile", "--batch-size=32", "--iterations=2"]
FLOWS = ["--flow-layers=1", "--flow-units=8"]
ESTIMATE = ["--num-samples=2", "--num-marginal-images=8"]


def small(model):
    """The options of a short run that its model reads."""
    argv = list(SMALL)
    argv += FLOWS if model != "autoencoder" else []
    argv += ESTIMATE if model in ("aef-linear", "vae", "iwae") else []
    return argv


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("tfds")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data_dir):
    """Trains runs of two iterations, once for each set of arguments."""
    root = tmp_path_factory.mktemp("runs")
    done = {}

    def of(model, *arguments):
        key = (model, *arguments)
        if key not in done:
            run_dir = root / "-".join(part.strip("-") for part in key)
            base = f"digits-{model}-2"
            if model == "pixel-maf":
                base = "digits-pixel-maf-4x256"
            argv = [base, *small(model), *arguments, f"--run-dir={run_dir}"]
            with contextlib.ExitStack() as stack:
                printed = stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
                if model in ("vae", "iwae"):
                    # Those of a VAE are drawn in `test_tensorboard`.
                    patch = stack.enter_context(pytest.MonkeyPatch.context())
                    patch.setattr(Pictures, "pictures", lambda self: iter(()))
                assert run.main([*argv, f"--data-dir={data_dir}"]) == 0
            done[key] = run_dir
            of.printed[run_dir] = printed.getvalue()
        return done[key]

    of.printed = {}
    return of


def read(run_dir):
    return json.loads((run_dir / "metrics.json").read_text())


@pytest.mark.parametrize(
    ("model", "prefix", "estimator"),
    [
        ("aef-linear", "joint", "no likelihood of x"),
        ("vae", "elbo", "one-sample ELBO, a lower bound"),
    ],
)
def test_runs_name_their_objective_and_the_marginal(model, prefix, estimator, trained):
    run_dir = trained(model)
    by_name = {record["name"]: record for record in read(run_dir)}
    assert set(by_name) == {
        f"{prefix}_log_prob",
        f"{prefix}_bits_per_dim",
        "marginal_log_prob",
        "marginal_bits_per_dim",
        "marginal_effective_sample_size",
    }
    assert by_name["marginal_bits_per_dim"]["num_samples"] == 2
    assert by_name["marginal_bits_per_dim"]["num_images"] == 8
    printed = trained.printed[run_dir]
    assert estimator in printed
    assert "importance sampling with - log K" in printed
    name = f"{prefix}_bits_per_dim"
    with (run_dir / "history.csv").open() as file:
        assert {name, f"val_{name}"} <= set(next(csv.DictReader(file)))


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("aef-corner", {"log_prob", "bits_per_dim"}),
        ("pixel-maf", {"log_prob", "bits_per_dim"}),
        ("aef-linear", {"joint_bits_per_dim", "marginal_bits_per_dim"}),
        ("vae", {"elbo_bits_per_dim", "marginal_bits_per_dim"}),
        ("iwae", {"iwae_bits_per_dim", "marginal_bits_per_dim"}),
        ("autoencoder", {"reconstruction_error"}),
    ],
)
def test_every_kind_of_model_is_evaluated(
    model, names, trained, data_dir, capsys, monkeypatch
):
    run_dir = trained(model)
    # Once is enough, and was at the end of the training.
    monkeypatch.setattr(metrics, "tune_proposal_scale", pytest.fail)
    before = read(run_dir)
    assert {entry["iteration"] for entry in before} == {2}
    weights = keras.saving.load_model(run_dir / "best.keras").get_weights()
    argv = [str(run_dir), "--num-images=6", "--split=validation", "--seed=5"]
    if "marginal_bits_per_dim" in names:
        argv += ["--num-samples=3", "--num-repeats=2"]
    argv += [f"--data-dir={data_dir}"]
    capsys.readouterr()
    assert evaluate.main(argv) == 0
    entries = read(run_dir)
    assert entries[: len(before)] == before
    new = entries[len(before) :]
    by_name = {entry["name"]: entry for entry in new}
    assert names <= set(by_name)
    for entry in new:
        assert entry["split"] == "validation"
        assert entry["num_images"] == 6
        assert entry["seed"] == 5
        assert entry["versions"]["tensorflow"] == tf.__version__
        assert np.isfinite(entry["value"])
        assert entry["standard_error"] > 0
    if "marginal_bits_per_dim" in by_name:
        marginal = by_name["marginal_bits_per_dim"]
        assert (marginal["num_samples"], marginal["num_repeats"]) == (3, 2)
        assert "(tuned)" in marginal["detail"]
    printed = capsys.readouterr().out
    for name in names:
        assert name in printed
    after = keras.saving.load_model(run_dir / "best.keras").get_weights()
    for old, now in zip(weights, after, strict=True):
        np.testing.assert_array_equal(old, now)


def test_values_are_those_of_the_model(trained, data_dir):
    from aef_tfp.data import load_splits

    run_dir = trained("aef-corner")
    argv = [str(run_dir), "--num-images=7", f"--data-dir={data_dir}", "--seed=2"]
    assert evaluate.main(argv) == 0
    model = keras.saving.load_model(run_dir / "best.keras")
    images = load_splits("digits", data_dir=data_dir).test.images[:7]
    log_prob = model.log_prob(images, seed=2).numpy()
    entry = [entry for entry in read(run_dir) if entry["name"] == "log_prob"][-1]
    np.testing.assert_allclose(entry["value"], log_prob.mean(), rtol=1e-6)
    error = log_prob.std(ddof=1) / np.sqrt(7)
    np.testing.assert_allclose(entry["standard_error"], error, rtol=1e-5)


def test_laplace_and_the_papers_estimator(trained, data_dir):
    run_dir = trained("aef-linear")
    argv = [str(run_dir), "--num-images=4", "--num-samples=8", "--proposal=laplace"]
    argv += ["--paper-estimator", f"--data-dir={data_dir}"]
    assert evaluate.main(argv) == 0
    new = {entry["name"]: entry for entry in read(run_dir)[-7:]}
    assert new["marginal_log_prob"]["proposal"] == "laplace"
    assert "scale of the proposal 1 (default)" in new["marginal_log_prob"]["detail"]
    paper = new["paper_without_log_k_log_prob"]["value"]
    # One repeat: exactly log K above.
    expected = new["marginal_log_prob"]["value"] + np.log(8)
    np.testing.assert_allclose(paper, expected, rtol=1e-6)


def test_the_model_of_a_run_has_a_tuned_scale(trained):
    model = keras.saving.load_model(trained("vae") / "best.keras")
    scale = model.proposal_scales["encoder"]
    assert 1e-3 <= scale <= 10.0


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory):
    """Where a classifier that one test has trained is for the next."""
    return tmp_path_factory.mktemp("keras")


def test_frechet_distances_in_classifier_features(
    trained, data_dir, classifiers, monkeypatch
):
    monkeypatch.setenv("KERAS_HOME", str(classifiers))
    run_dir = trained("aef-corner")
    argv = [str(run_dir), "--num-images=4", "--frechet=classifier"]
    argv += ["--num-frechet-images=60", f"--data-dir={data_dir}"]
    assert evaluate.main(argv) == 0
    entries = {entry["name"]: entry for entry in read(run_dir)[-6:]}
    distance = entries["frechet_classifier_distance"]
    assert "FID" not in distance["estimator"].replace("(no FID)", "")
    assert "60 samples at temperature 1 against 60 test images" in distance["estimator"]
    assert "classifier on digits (test accuracy 0.9" in distance["features"]
    assert distance["temperature"] == 1.0
    assert distance["dataset"] == "digits"
    # Untrained samples are far from digits, other digits are near.
    floor = entries["train_frechet_classifier_distance"]
    assert floor["value"] < 0.5 * distance["value"]
    assert entries["train_kernel_classifier_distance"]["value"] < (
        0.5 * entries["kernel_classifier_distance"]["value"]
    )
    assert list(classifiers.glob("aef_tfp/classifier-digits-*.keras"))


def test_a_classifier_may_be_of_another_data_set(
    data_dir, tmp_path, classifiers, monkeypatch
):
    monkeypatch.setenv("KERAS_HOME", str(classifiers))
    images = data.load_splits("digits", data_dir=data_dir).test.images
    np.savez(tmp_path / "own.npz", images=images)
    run_dir = tmp_path / "run"
    argv = ["npz-aef-center-8", "--num-levels=17", *small("aef-center")]
    argv += ["--networks=dense", f"--run-dir={run_dir}", "--picture-interval=9"]
    where = f"--data-dir={tmp_path / 'own.npz'}"
    assert run.main([*argv, where]) == 0
    # Its own images have no labels.
    argv = [str(run_dir), "--frechet=classifier", "--num-frechet-images=30", where]
    assert evaluate.main(argv) == 1
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    assert evaluate.main([*argv, "--classifier-dataset=digits"]) == 0
    features = {record.features for record in metrics.read_records(run_dir)} - {None}
    assert len(features) == 1
    assert "classifier on digits" in features.pop()


@pytest.mark.parametrize(
    ("name", "message"),
    [("mnst", "Did you mean 'mnist'?"), ("folder", "got 'folder'.")],
)
def test_a_classifier_of_no_data_set_is_refused(
    name, message, trained, data_dir, capsys
):
    argv = [str(trained("aef-corner")), f"--data-dir={data_dir}"]
    argv += ["--frechet=classifier", f"--classifier-dataset={name}"]
    assert evaluate.main(argv) == 1
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_inception_is_asked_for_before_anything_long(trained, capsys, tmp_path):
    run_dir = trained("aef-corner")
    before = read(run_dir)
    argv = [str(run_dir), "--frechet=inception"]
    assert evaluate.main([*argv, f"--inception-weights={tmp_path / 'no.pb'}"]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert printed.count("\n") == 1
    assert read(run_dir) == before


def test_other_inception_weights_make_no_fid():
    features = keras.layers.Flatten(name="another network")
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(5, 2, 2, 1))
    records = metrics.distance_records(
        features, "inception", images, images[::-1], split="test"
    )
    assert records[0].name == "frechet_inception_distance"
    assert not records[0].estimator.startswith("FID")
    np.testing.assert_allclose(records[0].value, 0.0, atol=1e-6)
    features.sha256 = metrics.inception.GRAPH_SHA256
    records = metrics.distance_records(
        features, "inception", images, images, split="test"
    )
    assert records[0].estimator.startswith("FID")


@pytest.mark.parametrize(("number", "is_few"), [(2, True), (3, True), (4, False)])
def test_fewer_images_than_features_are_said(number, is_few, rng):
    images = rng.uniform(size=(6, 2, 2, 1))
    features = keras.layers.Flatten(name="pixels")
    frechet, kernel = metrics.distance_records(
        features, "classifier", images, images[:number], split="test"
    )
    message = f"TOO FEW IMAGES: {number} for the covariance of 4 features"
    assert frechet.detail.startswith(message) is is_few
    assert bool(frechet.detail) is is_few
    assert not kernel.detail
    assert (message in metrics.summary([frechet, kernel])) is is_few


class Stub:
    """Images of noise, and features that are their pixels."""

    class events:  # noqa: N801 - an attribute of models
        num_levels = 256

    def sample(self, number, temperature, seed):
        return np.random.default_rng(seed).uniform(size=(number, 2, 2, 1))

    def __call__(self, images):
        return np.asarray(images).reshape(len(images), -1)


@pytest.mark.parametrize(("number", "prefixes"), [(1, {""}), (2, {"", "train_"})])
def test_one_training_image_is_at_no_distance(number, prefixes, capsys):
    from aef_tfp.runs.evaluation import _distances

    images = np.random.default_rng(0).integers(0, 256, (number, 2, 2, 1), np.uint8)
    two = data.Split(np.arange(8, dtype=np.uint8).reshape(2, 2, 2, 1))
    splits = data.Splits(data.Split(images), two, two, data.dataset_info("npz"))
    config = EvaluationConfig(frechet="classifier", num_frechet_images=4)
    facts = {"split": "test", "seed": 0, "iteration": 1}
    records = _distances(Stub(), Stub(), config, splits, 0, facts)
    ends = ("frechet_classifier_distance", "kernel_classifier_distance")
    assert {r.name for r in records} == {p + end for p in prefixes for end in ends}
    printed = capsys.readouterr().err
    note = "note: one training image has no distance to others; left out\n"
    assert printed == ("" if number > 1 else note)


def test_a_split_of_one_image_is_refused_before_anything_long(
    trained, capsys, monkeypatch, digit_images
):
    from aef_tfp.runs import evaluation

    argv = [str(trained("aef-corner")), "--split=validation"]
    capsys.readouterr()
    one = data.Split(digit_images[:1])
    splits = data.Splits(one, one, one, data.dataset_info("digits"))
    monkeypatch.setattr(evaluation, "load_run_splits", lambda *_, **__: splits)
    monkeypatch.setattr(evaluation, "_feature_model", pytest.fail)
    assert evaluate.main(argv) == 1
    assert capsys.readouterr().err == (
        "error: the validation split has 1 image, but a mean and its standard error "
        "take at least 2; choose another --split, or add images and train anew.\n"
    )


def test_denoising_is_evaluated_and_drawn(trained, data_dir, capsys):
    run_dir = trained("aef-linear", "--noise-std=0.5", "--decoder-scale=fixed")
    assert RunConfig.from_run(run_dir).noise_std == 0.5
    entries = {entry["name"]: entry for entry in read(run_dir)}
    error = entries["reconstruction_error"]
    assert "noise of deviation 0.5, kept in" in error["estimator"]
    assert 0.0 < error["value"] < 1.0
    picture = tf.io.decode_png((run_dir / "denoised.png").read_bytes()).numpy()
    # Twice noisy, denoised, original, eight to a row.
    assert picture.shape[:2] == (6 * 33 + 1, 8 * 33 + 1)
    rows = [picture[i * 33 + 1 : (i + 1) * 33, 1:-1, 0] for i in range(6)]
    assert (rows[0] < 16).mean() > 0.1  # the lowest of 17 levels
    assert not (run_dir / "reconstructions.png").exists()
    header = (run_dir / "history.csv").read_text().splitlines()[0]
    assert "val_noisy_target_joint_bits_per_dim" in header


def test_what_a_denoiser_makes_of_noisy_images_is_inspected(trained, data_dir):
    run_dir = trained("aef-linear", "--noise-std=0.5", "--decoder-scale=fixed")
    before = len(read(run_dir))
    argv = [str(run_dir), "--inspect", "--proposal=none", f"--data-dir={data_dir}"]
    assert evaluate.main([*argv, "--num-images=4", "--num-frechet-images=20"]) == 0
    name = "reconstruction_power_ratio_2_to_4"
    (got,) = [r for r in read(run_dir)[before:] if r["name"] == name]
    noise = "reconstructions of noisy images (noise of deviation 0.5)"
    assert noise in got["estimator"]
    run_config, model = RunConfig.from_run(run_dir), aef_tfp.load(run_dir)
    images = load_run_splits(run_config, data_dir=data_dir).test.images[:20]
    made = model.reconstruct(model.corrupt(images, seed=0))
    records = metrics.sharpness_records(
        metrics.as_levels(images, 17),
        metrics.as_levels(made, 17),
        are_pairs=True,
        split="test",
    )
    (expected,) = [r for r in records if r.name == "power_ratio_2_to_4"]
    assert got["value"] == pytest.approx(expected.value, rel=1e-5)
    error = pytest.approx(expected.standard_error, rel=1e-4)
    assert got["standard_error"] == error


def test_a_temperature_of_zero_is_shown(tmp_path):
    cold, warm = (
        metrics.Record("d", 1.0, None, "e", "test", 2, images="0", temperature=t)
        for t in (0.0, 0.5)
    )
    lines = metrics.comparison({"a": [cold, warm]}).splitlines()
    assert [line.split()[-2:-1] for line in lines[1:3]] == [["0.0"], ["0.5"]]


def test_runs_are_compared_side_by_side(trained, tmp_path, capsys):
    first, second = trained("aef-corner"), trained("vae")
    capsys.readouterr()
    assert evaluate.main(["--compare", str(first), str(second)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["quantity", "aef-corner", "vae"]
    exact = next(line for line in lines if line.startswith("bits_per_dim (test, 300"))
    value = next(e for e in read(first) if e["name"] == "bits_per_dim")["value"]
    assert f"{value:.4f} +- " in exact
    assert exact.rstrip().endswith("-")
    # They share no quantity, so nothing is paired.
    assert lines[-1].split() == ["iterations", "2", "2"]
    again = shutil.copytree(first, tmp_path / "again")
    assert evaluate.main(["--compare", str(first), str(again)]) == 0
    differences = capsys.readouterr().out.partition("minus aef-corner, ")[2]
    assert "again  log_prob (test, 300 images)" in differences


@pytest.mark.parametrize("model", ["vae", "autoencoder", "pixel-maf"])
def test_a_model_is_inspected_as_far_as_it_goes(trained, data_dir, model):
    run_dir = trained(model)
    argv = [str(run_dir), "--inspect", f"--data-dir={data_dir}", "--num-images=4"]
    if model != "autoencoder":
        argv += ["--num-frechet-images=20"]
    if model == "vae":
        argv += ["--proposal=none"]
    before = len(read(run_dir))
    assert evaluate.main(argv) == 0
    names = {record["name"] for record in read(run_dir)[before:]}
    assert ("elbo_bits_per_dim" in names) == (model == "vae")
    assert not any(name.startswith("marginal_") for name in names)
    encodes = model != "pixel-maf"
    assert ("power_ratio_2_to_4" in names) == (model != "autoencoder")
    assert ("reconstruction_power_ratio_2_to_4" in names) == encodes
    assert ("reconstruction_error" in names) == encodes
    assert ("latents_in_use" in names) == (model == "vae")


def test_what_comes_later_takes_no_numbers_along(
    trained, data_dir, monkeypatch, capsys
):
    from aef_tfp.runs import evaluation

    run_dir = trained("vae")
    argv = [str(run_dir), f"--data-dir={data_dir}", "--num-images=4", "--num-samples=2"]
    argv += ["--inspect", "--annealed-steps=7"]

    def fail(*args, **facts):
        raise ValueError("no more memory")

    stages = [
        (metrics, "annealed_records"),
        (evaluation, "_inspection"),
        (evaluation, "reconstruction_records"),
    ]
    before, names = len(read(run_dir)), []
    for place, name in stages:
        with monkeypatch.context() as patch:
            patch.setattr(place, name, fail)
            assert evaluate.main(argv) == 1
        assert capsys.readouterr().err.endswith("error: no more memory\n")
        records = read(run_dir)
        names.append({entry["name"] for entry in records[before:]})
        before = len(records)
        made = [record(name=name)]
        monkeypatch.setattr(place, name, lambda *_, made=made, **__: made)
    assert "marginal_bits_per_dim" in names[0]
    assert names[1] == names[0] | {"annealed_records"}
    assert names[2] == names[1] | {"_inspection"}


def test_spectra_of_small_images_are_left_out(capsys):
    from aef_tfp.runs.evaluation import _inspection

    model = Stub()
    model.samples, model.encodes, model.has_terms = True, True, False
    config = EvaluationConfig(inspect=True, num_frechet_images=4)
    images = np.zeros([5, 2, 9, 1], np.uint8)
    assert _inspection(model, config, images, 0, {"split": "test"}) == []
    assert capsys.readouterr().err == (
        "note: spectra are those of 4 x 4 pixels or more; left out\n"
    )


@pytest.fixture(scope="module")
def noise_images(tmp_path_factory):
    """A file of forty images of noise, like digits in form."""
    root = tmp_path_factory.mktemp("noise")
    images = np.random.default_rng(0).integers(0, 17, [40, 8, 8, 1], np.uint8)
    np.savez(root / "noise.npz", images=images)
    return root / "noise.npz"


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (
            "vae",
            ["elbo_log_prob", "marginal_log_prob", "reconstruction_error"],
        ),
        ("autoencoder", ["reconstruction_error"]),
        ("pixel-maf", ["log_prob"]),
    ],
)
def test_anomalies_are_told_apart(
    model, names, trained, data_dir, noise_images, capsys
):
    run_dir = trained(model)
    argv = [str(run_dir), f"--data-dir={data_dir}", "--num-images=20"]
    argv += ["--num-samples=2"] if model == "vae" else []
    assert evaluate.main([*argv, f"--anomalies={noise_images}"]) == 0
    printed = capsys.readouterr().out
    assert "against 20 images of noise.npz" in printed
    found = {r.name: r for r in metrics.read_records(run_dir)}
    areas = [name for name in found if name.startswith("auroc_")]
    assert areas == [f"auroc_{name}" for name in names]
    name = names[-1]
    # Those of the run's own images are kept beside it, and are the ones it is made of.
    of_own = read_per_image(run_dir, found[name])
    loaded = aef_tfp.load(run_dir)
    # All of the file's images, as its splits have them.
    splits = data.load_splits("npz", noise_images, num_levels=17)
    noise = np.concatenate([splits.train.images, splits.validation.images])[:20]
    if name == "log_prob":
        # Noise of another seed than that of the run's own images.
        of_noise = loaded.log_prob(noise, seed=1).numpy()
        expected = np.mean(of_own[:, None] > of_noise)
    else:
        clean, made = (
            metrics.as_levels(x, 17) for x in (noise, loaded.reconstruct(noise))
        )
        of_noise = np.mean((clean - made) ** 2, axis=(1, 2, 3))
        expected = np.mean(of_own[:, None] < of_noise)
    assert found[f"auroc_{name}"].value == pytest.approx(expected, abs=1e-6)


def test_anomalies_without_a_density_cost_no_area(
    trained, data_dir, tmp_path, monkeypatch
):
    run_dir, original = trained("vae"), VAE._log_weights_of
    # Two pixels that no digit uses.
    images = np.zeros([4, 8, 8, 1], np.uint8)
    images[0, 4, 0] = images[1, 4, 7] = 16
    images[2:, 4, 4, 0] = 9, 12
    np.savez(tmp_path / "four.npz", images=images)
    loaded = aef_tfp.load(run_dir)
    edge = loaded._preprocess(tf.fill([1, 8, 8, 1], 0.5))[0][0]

    def log_weights(self, y, *arguments):
        # Of the first image all weights are 0, and of the second one none is known.
        first, second = (y[:, 4, i, 0] > edge[4, i, 0] for i in (0, 7))
        lost = tf.where(first, -np.inf, tf.where(second, np.nan, 0.0))
        return original(self, y, *arguments) + tf.cast(lost, y.dtype)

    monkeypatch.setattr(VAE, "_log_weights_of", log_weights)
    config = EvaluationConfig(
        num_images=20, num_samples=2, anomalies=str(tmp_path / "four.npz")
    )
    records = evaluate_run(run_dir, config, data_dir=data_dir, verbose=0)
    areas = {r.name: r for r in records if r.name.startswith("auroc_")}
    assert [name.removeprefix("auroc_") for name in areas] == [
        "elbo_log_prob",
        "marginal_log_prob",
        "reconstruction_error",
    ]
    assert areas["auroc_marginal_log_prob"].detail.endswith(
        "-inf of the images of four.npz; 1 of these 4 could not be computed, and count "
        "as infinite"
    )


@pytest.mark.parametrize(
    ("anomalies", "message"),
    [
        ("mnst", "got 'mnst'. Did you mean 'mnist'?"),
        ("folder", "got 'folder'."),
        ("nowhere/else", "got 'nowhere/else'."),
        ("{wide}", "8 x 8 x 1 with 17 levels, got "),
    ],
)
def test_anomalies_that_are_none_are_refused_before_anything_long(
    anomalies, message, trained, data_dir, tmp_path, capsys
):
    wide = tmp_path / "wide.npz"
    np.savez(wide, images=np.zeros([20, 8, 12, 1], np.uint8))
    where = f"--anomalies={anomalies.format(wide=wide)}"
    argv = [str(trained("aef-corner")), f"--data-dir={data_dir}", where]
    assert evaluate.main(argv) == 1
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_annealed_sampling_is_of_the_same_images(trained, data_dir, monkeypatch):
    run_dir = trained("vae")
    asked = []

    def annealed(model, images, *, num_steps, batch_size, progress, **facts):
        asked.append((len(images), num_steps))
        values = {"annealed_log_prob": np.arange(4.0)}
        return records_of_means(values, estimator="annealed", **facts)

    monkeypatch.setattr(metrics, "annealed_records", annealed)
    argv = [str(run_dir), "--proposal=none", f"--data-dir={data_dir}"]
    before = len(read(run_dir))
    assert evaluate.main([*argv, "--num-images=4", "--annealed-steps=7"]) == 0
    assert asked == [(4, 7)]
    (record,) = [r for r in read(run_dir)[before:] if r["name"].startswith("annealed")]
    assert (record["split"], record["iteration"]) == ("test", 2)
    assert evaluate.main([*argv, "--num-images=4"]) == 0
    assert len(asked) == 1


def kept(run_dir, values, **changes):
    """Records of a run whose numbers per image are kept."""
    facts = {"split": "test", "estimator": "exact", "images": "0123abcd", **changes}
    found = records_of_means({"log_prob": np.asarray(values)}, **facts)
    run_dir.mkdir(exist_ok=True)
    metrics.append_records(run_dir, found)
    return run_dir


def test_differences_are_those_of_each_image(tmp_path, rng):
    images = 100.0 * rng.normal(size=50)
    gaps = rng.normal(2.0, 0.1, size=50)
    first = kept(tmp_path / "a", images)
    kept(first, images - 70.0, split="validation")
    second = kept(tmp_path / "b", rng.normal(size=50))  # not the newest
    kept(second, images + gaps)
    # Of other images, or other noise on them, nothing says which is which.
    third = kept(tmp_path / "c", images, images="4567abcd")
    kept(third, images, seed=1)
    text = metrics.differences({"a": first, "b": second, "c": third})
    title, line, _ = text.splitlines()
    assert title.startswith("minus a, ")
    error = gaps.std(ddof=1) / np.sqrt(50)
    assert line.split()[-4:] == [
        f"{gaps.mean():+.4f}",
        "+-",
        f"{error:.4f}",
        "nats/image",
    ]
    assert line.startswith("b  log_prob (test, 50 images)")
    (_, reason) = metrics.differences({"a": first, "c": third}).splitlines()
    assert reason.endswith("  not paired: seed 1 of c and seed 0 of a")
    # Older numbers, of other weights, do not stand in for the newest.
    kept(second, images, seed=1)
    (_, reason) = metrics.differences({"a": first, "b": second}).splitlines()
    assert reason.endswith("  not paired: seed 1 of b and seed 0 of a")
    # One that was evaluated before they were kept, and a distance, which has none.
    path = second / "metrics.json"
    old = {**read(second)[-1], "seed": 0, "images": "0123abcd"}
    del old["per_image_file"]
    distance = {**old, "name": "frechet_distance"}
    path.write_text(json.dumps([old, distance]))
    (_, reason) = metrics.differences({"a": first, "b": second}).splitlines()
    assert "log_prob" in reason
    assert "  not paired: evaluate b again, to keep" in reason
    # metrics.json alone is as readable as before.
    assert "per_image" not in read(first)[0]
    assert all(r.per_image is None for r in metrics.read_records(first))


def test_errors_of_reconstructions_are_paired_too(tmp_path):
    facts = {"split": "test", "estimator": "mean squared error", "images": "0123abcd"}
    runs = {}
    for name, errors in (("a", [1e-4, 3e-4]), ("b", [2e-4, 6e-4])):
        runs[name] = tmp_path / name
        runs[name].mkdir()
        values = {"reconstruction_error": np.array(errors)}
        metrics.append_records(runs[name], records_of_means(values, **facts))
    (_, line) = metrics.differences(runs).splitlines()
    assert line.endswith("  +0.000200 +- 0.000100")
    # So they are where they stand alone.
    records = {name: metrics.read_records(run_dir) for name, run_dir in runs.items()}
    assert " 0.000200 +- 0.000100  " in metrics.summary(records["a"])
    assert "0.000200 +- 0.000100  0.000400 +- 0.000200" in metrics.comparison(records)


def test_records_of_one_name_keep_numbers_of_their_own(tmp_path):
    facts = {"split": "test", "estimator": "e", "images": "0123abcd"}
    records = [
        record
        for proposal, values in (("encoder", [1.0, 2.0]), ("laplace", [3.0, 5.0]))
        for record in records_of_means(
            {"marginal_log_prob": np.array(values)}, proposal=proposal, **facts
        )
    ]
    metrics.append_records(tmp_path, records)
    first, second = metrics.read_records(tmp_path)
    np.testing.assert_array_equal(read_per_image(tmp_path, first), [1.0, 2.0])
    np.testing.assert_array_equal(read_per_image(tmp_path, second), [3.0, 5.0])


def test_numbers_per_image_that_are_gone_or_damaged_are_named(tmp_path):
    first, second = (kept(tmp_path / name, [1.0, 2.0, 4.0]) for name in "ab")
    file = second / "per-image" / "1.npz"
    whole = file.read_bytes()
    for content in (b"", whole[:40]):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"1\.npz cannot be read"):
            metrics.differences({"a": first, "b": second})
    file.unlink()
    with pytest.raises(ValueError, match=r"1\.npz is gone\. Evaluate again"):
        metrics.differences({"a": first, "b": second})
    # metrics.json was moved away: the next numbers take no name that is taken.
    (first / "metrics.json").unlink()
    kept(first, [5.0, 6.0])
    assert {path.name for path in (first / "per-image").iterdir()} == {"1.npz", "2.npz"}


def test_images_are_judged_as_a_file_would_hold_them():
    got = metrics.as_levels(np.array([0.0, 0.24, 0.25, 0.99, 1.0, np.nan]), 4)
    np.testing.assert_allclose(got, [0.0, 0.0, 1 / 3, 1.0, 1.0, np.nan])
    np.testing.assert_allclose(metrics.as_levels(np.arange(4), 4), np.arange(4) / 3)
    np.testing.assert_array_equal(metrics.as_levels([[0.3]], None), [[0.3]])


def test_batches_of_noisy_images_have_noise_of_their_own():
    from aef_tfp.runs.reconstructions import reconstruction_records

    model = Autoencoder((2, 2, 1), 1, encoder="dense", decoder="dense", noise_std=0.1)
    seeds = []
    corrupt = model.corrupt

    def recorded(x, seed):
        seeds.append(seed)
        return corrupt(x, seed=seed)

    model.corrupt = recorded
    images = np.full((300, 2, 2, 1), 128, np.uint8)
    reconstruction_records(model, images, seed=5, split="test")
    assert seeds == [5, 261]


class Blur:
    """Stands for a model: what it makes of images, without TensorFlow's memory."""

    class events:  # noqa: N801 - an attribute of models
        num_levels = 256

    noise_std = 0.25

    def corrupt(self, x, seed):
        rng = np.random.default_rng(seed)
        noisy = (x + 0.5) / 256 + rng.normal(0.0, self.noise_std, x.shape)
        return np.clip(noisy, 0.0, 1.0).astype(np.float32)

    def reconstruct(self, x):
        return (x + np.roll(x, 1, axis=1)) / 2


@pytest.mark.parametrize("number", [30, 700])
def test_errors_of_a_few_images_at_a_time_are_those_of_all(number, rng):
    from aef_tfp.runs.reconstructions import reconstructed, reconstruction_records

    images = rng.integers(0, 256, (number, 4, 4, 3), np.uint8)
    sizes, done = set(), []

    def features(x):
        sizes.add(len(x))
        return np.asarray(x).reshape(len(x), -1)[:, :7]

    made = metrics.as_levels(reconstructed(Blur(), images, 3), 256)
    clean = metrics.as_levels(images, 256)
    facts = {"seed": 3, "split": "test"}
    pixels, of_features = reconstruction_records(
        Blur(), images, features=features, kind="classifier", **facts
    )
    expected = metrics.feature_error(*(x.reshape(number, -1) for x in (clean, made)))
    np.testing.assert_array_equal(pixels.per_image, expected)
    assert pixels.images == metrics.digest_of(clean)
    expected = metrics.feature_error(
        *(metrics.extract_features(features, x) for x in (clean, made))
    )
    np.testing.assert_array_equal(of_features.per_image, expected)
    assert sizes == {min(number, 100)}
    both = metrics.denoising_records(
        clean, made, noise_std=0.25, feature_model=features, kind="classifier",
        progress=done.append, **facts
    )  # fmt: skip
    for one, two in zip(both, (pixels, of_features), strict=True):
        np.testing.assert_array_equal(one.per_image, two.per_image)
        assert one == two
    assert done[-1] == number


def test_an_evaluation_takes_no_multiple_of_its_images(rng):
    """They may be in a file since the memory does not hold them."""
    from aef_tfp.runs.reconstructions import reconstruction_records

    images = rng.integers(0, 256, (6000, 24, 24, 3), np.uint8)

    def peak(function):
        tracemalloc.start()
        function()
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most / images.nbytes

    # What is done to the 256 images of a batch takes as much as twice all here.
    assert peak(lambda: metrics.digest_of(np.repeat(images, 4, axis=0))) < 6.0
    facts = {"seed": 0, "split": "test"}
    assert peak(lambda: reconstruction_records(Blur(), images, **facts)) < 3.0
    # One copy in float32, and what says whether they are finite.
    assert peak(lambda: metrics.as_levels(images, 256)) < 5.0
    floats = metrics.as_levels(images, 256)
    assert peak(lambda: metrics.octave_powers(floats)) < 3.0


def record(**changes):
    fields = {
        "name": "marginal_bits_per_dim",
        "value": 1.5,
        "standard_error": 0.25,
        "estimator": "importance sampling",
        "split": "test",
        "num_images": 1000,
        "num_samples": 128,
        "num_repeats": 20,
        "proposal": "laplace",
        "iteration": 2000,
        "dataset": "mnist",
        "images": "0123abcd",
    }
    return Record(**{**fields, **changes})


def test_a_comparison_keeps_unlike_numbers_apart():
    text = metrics.comparison(
        {
            "a": [record(value=9.0), record(), record(num_images=10)],
            "b": [record(proposal="encoder"), record(iteration=1000)],
        }
    )
    rows = {line.split("  ")[0]: line for line in text.splitlines()}
    row = rows["marginal_bits_per_dim, laplace (test, 1000 images, K = 128 x 20)"]
    # The newest of two.
    assert row.split("  ")[1:] == ["1.5000 +- 0.2500", "1.5000 +- 0.2500"]
    assert "9.0000" not in text
    row = rows["marginal_bits_per_dim, encoder (test, 1000 images, K = 128 x 20)"]
    assert row.split()[-5:] == ["20)", "-", "1.5000", "+-", "0.2500"]
    assert "1,000, 2,000" in rows["iterations"]


def test_iterations_are_those_of_the_numbers_that_are_shown():
    superseded = [record(iteration=number) for number in (20, 900, 1000)]
    text = metrics.comparison({"a": [*superseded, record(split="train", iteration=30)]})
    assert text.splitlines()[-1].split("  ")[-1] == "30, 1,000"


@pytest.mark.parametrize(
    ("fact", "values", "title"),
    [
        ("dataset", ("mnist", "kmnist"), "data"),
        ("num_levels", (17, 256), "levels"),
        ("images", ("0123abcd", "4567abcd"), "set"),
        ("anomalies", ("0123abcd", "4567abcd"), "anomalies"),
        ("temperature", (1.0, 0.85), "temperature"),
        ("features", ("classifier one", "classifier two"), "features"),
        ("num_samples", (128, 64), None),
        ("proposal", ("laplace", "encoder"), None),
        ("split", ("test", "validation"), None),
    ],
)
def test_what_differs_is_a_row_and_a_column_of_its_own(fact, values, title):
    first, second = (record(**{fact: value}) for value in values)
    lines = metrics.comparison({"a": [first], "b": [second]}).splitlines()
    assert len(lines) == 4  # titles, two rows, iterations
    assert (title is None) or title in lines[0].split()
    for line, value in zip(lines[1:3], values, strict=True):
        assert str(value) in line
        assert line.count("1.5000 +- 0.2500") == 1
    # Equal numbers share a row, and need no column.
    together = metrics.comparison({"a": [first], "b": [first]}).splitlines()
    assert len(together) == 3
    assert title is None or title not in together[0].split()


def test_estimators_are_written_below_a_comparison():
    names = "importance sampling, " + "one of many words " * 8, "two samples"
    first, second = (record(estimator=name) for name in names)
    lines = metrics.comparison({"a": [first], "b": [second]}).splitlines()
    assert "estimator" in lines[0].split()
    assert [line.split().count(f"({i})") for i, line in enumerate(lines[1:3], 1)] == [
        1,
        1,
    ]
    assert lines[-2:] == [f"({i}) {name}" for i, name in enumerate(names, 1)]
    assert max(map(len, lines[:-2])) < 130
    assert "(1)" not in metrics.comparison({"a": [first], "b": [first]})


def test_images_that_nobody_knows_are_not_the_same():
    old = record(images=None, estimator="laplace proposal of scale 1 (default), noise")
    lines = metrics.comparison({"a": [old], "b": [old]}).splitlines()
    assert len(lines) == 4
    # A run's own older numbers are replaced, whatever their proposals' scales.
    newer = record(
        images=None, value=2.0, estimator="laplace proposal of scale 0.7 (tuned), noise"
    )
    [_, row, _] = metrics.comparison({"a": [old, newer]}).splitlines()
    assert row.endswith("2.0000 +- 0.2500")


def test_anomalies_that_nobody_knows_are_not_the_same(tmp_path):
    old = record(name="auroc_log_prob")
    lines = metrics.comparison({"a": [old], "b": [old]}).splitlines()
    assert len(lines) == 4
    assert len(metrics.comparison({"a": [old, old], "b": []}).splitlines()) == 3
    # As older versions wrote it.
    metrics.append_records(tmp_path, [old])
    [entry] = json.loads((tmp_path / "metrics.json").read_text())
    del entry["anomalies"]
    (tmp_path / "metrics.json").write_text(json.dumps([entry]))
    assert metrics.read_records(tmp_path) == [old]


def test_a_digest_tells_images_apart(rng):
    images = rng.integers(0, 17, (4, 2, 2, 1)).astype(np.uint8)
    assert metrics.digest_of(images) == metrics.digest_of(images.copy())
    assert metrics.digest_of(images) != metrics.digest_of(images[::-1])
    assert metrics.digest_of(images) != metrics.digest_of(images.astype(np.int32))
    assert metrics.digest_of(images) != metrics.digest_of(images.reshape(4, 4, 1, 1))


def test_a_summary_says_unit_images_and_samples():
    records = [record(), record(name="log_prob", num_samples=None)]
    text = metrics.summary([*records, record(name="error", estimator="least squares")])
    assert "1.5000 +- 0.2500 bits/dim   (test, 1000 images, K = 128 x 20)" in text
    assert "nats/image (test, 1000 images)" in text
    # Once below the numbers that share it.
    assert text.count("importance sampling") == 1
    assert text.splitlines()[2].strip() == "importance sampling"
    assert text.splitlines()[-1].strip() == "least squares"


def test_records_are_appended_and_old_ones_read(tmp_path):
    metrics.append_records(tmp_path, [record()])
    metrics.append_records(tmp_path, [record(value=2.0)])
    assert [r.value for r in metrics.read_records(tmp_path)] == [1.5, 2.0]
    assert metrics.read_records(tmp_path)[0] == record()
    assert not list(tmp_path.glob(".*"))
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(ValueError, match="is no list of records"):
        metrics.append_records(tmp_path, [record()])
    assert (tmp_path / "metrics.json").read_text() == "{"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0], "at least 2 images, got 1"),
        ([1.0, np.nan, np.inf], r"not finite for 2 of 3 images \(.* from 0: 1, 2\)"),
    ],
)
def test_means_of_too_few_or_not_finite_are_refused(values, message):
    with pytest.raises(ValueError, match=message) as error:
        records_of_means({"loss": np.array(values)}, estimator="", split="test")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nowhere"], "nowhere holds no run: it has no config.json"),
        (["--compare", "nowhere"], "nowhere holds no run"),
        (["a", "b"], "evaluate one run at a time, got 2"),
        (["a", "--num-images=1"], "num_images must be at least 2, got 1"),
        (["a", "--num-samples=0"], "num_samples must be at least 1, got 0"),
        (["a", "--temperature=-1"], "temperature must be a finite number"),
    ],
)
def test_errors_are_one_line(argv, message, capsys):
    assert evaluate.main(argv) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert message in printed
    assert printed.count("\n") == 1


def test_a_run_without_checkpoint_or_numbers_is_named(tmp_path, capsys):
    (tmp_path / "config.json").write_text(RunConfig().to_json())
    assert evaluate.main([str(tmp_path)]) == 1
    assert "has no best.keras" in capsys.readouterr().err
    assert evaluate.main(["--compare", str(tmp_path)]) == 1
    assert "has no numbers yet" in capsys.readouterr().err


def test_a_checkpoint_of_two_replicas_is_evaluated(mirrored, tmp_path, data_dir):
    from aef_tfp.data import dataset_info, evaluation_batches, load_splits
    from aef_tfp.runs import training

    config = RunConfig(
        model="vae", latent_dim=2, flow_layers=1, flow_units=8, batch_size=32
    )
    images = load_splits("digits", data_dir=data_dir).train.images[:64]
    with mirrored.scope():
        model = training.build_model(config, dataset_info("digits"))
    model.fit(evaluation_batches(images, 32), verbose=0)
    model.save(tmp_path / "best.keras")
    (tmp_path / "config.json").write_text(config.to_json())
    argv = [str(tmp_path), "--num-images=4", "--num-samples=2"]
    assert evaluate.main([*argv, f"--data-dir={data_dir}"]) == 0
    entries = {entry["name"]: entry for entry in read(tmp_path)}
    assert entries["marginal_bits_per_dim"]["iteration"] is None
    assert np.isfinite(entries["marginal_bits_per_dim"]["value"])


def test_evaluation_settings_are_checked():
    EvaluationConfig().check()
    with pytest.raises(ValueError, match="num_repeats must be at least 1, got 0"):
        EvaluationConfig(num_repeats=0).check()
