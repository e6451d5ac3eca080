"""What TensorBoard shows: terms, curves, pictures, hyperparameters, latents."""

import csv
import types
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from calculus import perturb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_models import small_model
from test_training_engine import FLOATS, batches, plain
from test_variational import vae

from aef_tfp.callbacks import Pictures, Scalars, write_hyperparameters, write_projector
from aef_tfp.engine.averages import Averages
from aef_tfp.models import IWAE, VAE, ExpandedAEF, PartitionedAEF
from aef_tfp.pictures import image_grid, manifold_grid, scatter
from aef_tfp.runs.commands import train as run
from aef_tfp.runs.reconstructions import draw_reconstructions

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("cls", [PartitionedAEF, ExpandedAEF, VAE])
def test_the_terms_sum_to_the_objective(cls, rng):
    shape = (4, 4, 1)
    model = vae(event_shape=shape) if cls is VAE else small_model(cls, shape, 2)
    x = rng.uniform(0.1, 0.9, size=(3, 4, 4, 1))
    terms = model.objective_terms(x, seed=7)
    expected = {
        PartitionedAEF: lambda: model.log_prob(x),
        ExpandedAEF: lambda: model.joint_log_prob(x),
        VAE: lambda: model.elbo(x, seed=7),
    }[cls]()
    np.testing.assert_allclose(sum(terms.values()), expected, rtol=1e-9)
    assert ("posterior_noise" in terms) == (cls is VAE)
    for value in terms.values():
        assert value.shape == (3,)
    if cls is ExpandedAEF:
        y = model.preprocessing.bijector.inverse(tf.constant(x))
        scale = model.encoder(y)[1]
        np.testing.assert_allclose(
            terms["encoder_log_det"], np.log(scale).sum(-1), rtol=1e-9
        )
        z = model.encode(x)
        prior = terms["prior"] + terms["prior_flow_log_det"]
        np.testing.assert_allclose(prior, model.prior.log_prob(z), rtol=1e-9)


def test_the_terms_of_an_iwae_are_those_of_one_sample(rng):
    model = vae(IWAE, num_importance_samples=1)
    x = rng.normal(size=(3, 5))
    terms = model.objective_terms(x, seed=7)
    np.testing.assert_allclose(sum(terms.values()), model.elbo(x, seed=7), rtol=1e-9)


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """TensorBoard's directory of a VAE with two latents, 12 iterations."""
    root = tmp_path_factory.mktemp("runs")
    argv = ["digits-vae-2", "--iterations=12", "--validation-interval=4"]
    argv += ["--log-interval=3", "--picture-interval=100", "--steps-per-execution=1"]
    argv += ["--flow-layers=1", "--flow-units=8", "--no-jit-compile"]
    argv += ["--num-samples=2", "--num-marginal-images=4", "--batch-size=32"]
    (root / "tfds").mkdir()
    argv += [f"--run-dir={root / 'run'}", f"--data-dir={root / 'tfds'}"]
    assert run.main(argv) == 0
    return root / "run" / "tensorboard"


def events(directory):
    accumulator = EventAccumulator(
        str(directory), size_guidance={"tensors": 0, "images": 0}
    )
    accumulator.Reload()
    return accumulator


def points(directory, tag):
    return [
        (event.step, float(tf.make_ndarray(event.tensor_proto)))
        for event in events(directory).Tensors(tag)
    ]


def test_training_and_validation_share_their_names(logs):
    train, validation = (
        set(events(logs / part).Tags()["tensors"]) for part in ("train", "validation")
    )
    shared = {"loss", "elbo_bits_per_dim"}
    assert (
        shared
        | {
            "gradient_norm",
            "images_per_second",
            "learning_rate",
            "skipped_updates",
        }
        == train
    )
    assert shared < validation
    assert "marginal_bits_per_dim_of_16_samples" in validation
    assert {
        "terms/prior",
        "terms/residual",
        "terms/core_flow_log_det",
        "terms/encoder_log_det",
        "terms/decoder_log_det",
        "terms/posterior_noise",
    } <= validation


def test_curves_have_their_points_at_their_iterations(logs):
    # Validations, after each fourth, do not count.
    assert [step for step, _ in points(logs / "train", "loss")] == [3, 6, 9, 12]
    assert [step for step, _ in points(logs / "validation", "loss")] == [4, 8, 12]
    assert points(logs / "train", "learning_rate")[0][1] == pytest.approx(1e-3)
    assert all(value > 0 for _, value in points(logs / "train", "images_per_second"))
    with (logs.parent / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    expected = [float(row["val_loss"]) for row in rows]
    got = [value for _, value in points(logs / "validation", "loss")]
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_short_epochs_have_a_curve_and_a_resumed_run_has_the_same(tmp_path):
    """Epochs of 3 steps and a point each 4th; interrupted after 5 of 11."""
    optimizer = keras.optimizers.SGD(0.1)
    optimizer.build([keras.Variable(1.0)])
    model = types.SimpleNamespace(
        optimizer=optimizer,
        averages=Averages(optimizer),
        has_terms=False,
        estimates=False,
    )
    image = np.zeros([1, 2, 2, 1], np.float32)

    def train(done, iterations):
        """As the trainer does: to the next validation, and on to the end."""
        scalars = Scalars(tmp_path, image, 8, lambda epoch: 3 * epoch + 3, interval=4)
        scalars.set_model(model)
        scalars.set_params({"steps": 3 - done % 3})
        scalars.on_train_begin()
        for iteration in range(done, iterations):
            epoch, step = divmod(iteration, 3)
            if step == 0:
                scalars.set_params({"steps": 3})
            if step == 0 or iteration == done:
                scalars.on_epoch_begin(epoch)
                first = iteration
            logs = {"loss": float(iteration + 1)}
            scalars.on_train_batch_end(iteration - first, logs)
            if step == 2:
                scalars.on_epoch_end(epoch, {"val_loss": 1.0})
        return scalars

    # An interruption ends `fit` by an exception.
    train(0, 5)._train.flush()
    train(5, 11).on_train_end({"loss": 11.0, "val_loss": 1.0})
    expected = [(4, 4.0), (8, 8.0), (11, 11.0)]
    assert points(tmp_path / "train", "loss") == expected
    speeds = [value for _, value in points(tmp_path / "train", "images_per_second")]
    assert len(speeds) == 3
    assert all(value > 0.0 for value in speeds)
    # Nothing comes of a `fit` that has nothing to do.
    train(11, 11).on_train_end()
    assert points(tmp_path / "train", "loss") == expected


def test_training_curves_count_skipped_steps(tmp_path):
    model = plain()
    model.adapt(FLOATS)
    data = FLOATS[:64].copy()
    data[20] = np.nan  # in the second of four batches
    scalars = Scalars(tmp_path, FLOATS[:4], 16, lambda epoch: 4 * (epoch + 1), 1)
    fit = {"callbacks": [scalars], "verbose": 0}
    model.fit(batches(data), epochs=1, **fit)
    assert int(model.optimizer.iterations) == 3
    # As of a run that goes on between two validations.
    model.fit(batches(FLOATS), epochs=2, initial_epoch=1, steps_per_epoch=2, **fit)
    steps = [step for step, _ in points(tmp_path / "train", "learning_rate")]
    assert steps == [1, 2, 3, 4, 7, 8]


def test_pictures_come_rarely_and_all_kinds_are_there(logs):
    accumulator = events(logs / "images")
    tags = set(accumulator.Tags()["tensors"])
    assert tags == {
        "samples/0.85",
        "samples/1.0",
        "reconstructions",
        "interpolations",
        "manifold",
        "latents",
    }
    # The first validation, and the end.
    for tag in tags:
        assert [event.step for event in accumulator.Tensors(tag)] == [4, 12]
    data = tf.make_ndarray(accumulator.Tensors("manifold")[-1].tensor_proto)
    picture = tf.io.decode_png(data[2]).numpy()
    assert picture.shape[:2] == (12 * 33 + 1, 12 * 33 + 1)
    assert picture.std() > 5


def test_hyperparameters_stand_beside_the_final_metrics(logs):
    accumulator = events(logs / "final")
    assert {"final/elbo_bits_per_dim", "final/marginal_bits_per_dim"} <= set(
        accumulator.Tags()["tensors"]
    )
    from tensorboard.plugins.hparams import plugin_data_pb2

    content = accumulator.SummaryMetadata("_hparams_/session_start_info")
    data = plugin_data_pb2.HParamsPluginData.FromString(content.plugin_data.content)
    settings = data.session_start_info.hparams
    assert settings["latent_dim"].number_value == 2
    assert settings["model"].string_value == "vae"
    # Runs of equal settings have rows of their own.
    assert data.session_start_info.group_name.startswith(f"{logs.parent.name}-")


def test_the_projector_gets_latents_labels_and_images(logs):
    folder = logs / "latents"
    latents = np.loadtxt(folder / "latents.tsv")
    labels = (folder / "labels.tsv").read_text().split()
    assert latents.shape == (300, 2)
    assert len(labels) == 300
    config = (folder / "projector_config.pbtxt").read_text()
    assert 'tensor_path: "latents.tsv"' in config
    assert 'metadata_path: "labels.tsv"' in config
    sheet = tf.io.decode_png((folder / "images.png").read_bytes()).numpy()
    # 18 columns hold 300 images of 8 x 8, without lines between them. The plugin counts
    # on as many rows, though 17 would do.
    assert sheet.shape == (18 * 8, 18 * 8, 1)


def test_a_sheet_has_no_gaps_and_a_grid_has():
    images = np.zeros((4, 2, 2, 1))
    images[3] = 1.0
    sheet = image_grid(images, 2, min_side=1, gap=0)
    assert sheet.shape == (4, 4, 1)
    assert sheet[2:, 2:].min() == 255
    assert sheet.sum() == 4 * 255
    assert image_grid(images, 2, min_side=1).shape == (7, 7, 1)


def test_the_manifold_follows_the_quantiles_of_the_prior():
    model = small_model(ExpandedAEF, (4, 4, 1), 2)
    levels = np.array([0.25, 0.5, 0.75])
    seen = {}
    decode = model._of_latents

    def recorded(z):
        seen["z"] = z
        return decode(z)

    model._of_latents = recorded
    picture = manifold_grid(model, num_columns=3)
    assert picture.shape == (3 * 29 + 1, 3 * 29 + 1, 1)
    base = model.prior_flow.bijector.inverse(tf.identity(seen["z"])).numpy()
    from scipy.stats import norm

    got = norm.cdf(base).reshape(3, 3, 2)
    np.testing.assert_allclose(got[..., 0], np.tile(levels, (3, 1)), atol=1e-6)
    # Upwards.
    np.testing.assert_allclose(got[:, 0, 1], levels[::-1], atol=1e-6)


def test_a_scatter_puts_points_in_their_colour():
    points = np.array([[0.0, 0.0]] * 50 + [[1.0, 1.0]] * 50)
    picture = scatter(points, np.repeat([0, 3], 50), side=64)
    assert picture.shape == (64, 64, 3)
    np.testing.assert_array_equal(picture[59, 4], [31, 119, 180])
    np.testing.assert_array_equal(picture[4, 59], [214, 39, 40])
    assert (picture[30, 30] == 255).all()
    # A model that diverges.
    spoiled = np.concatenate([points, np.full([3, 2], np.nan)])
    labels = np.repeat([0, 3, 1], [50, 50, 3])
    np.testing.assert_array_equal(scatter(spoiled, labels, side=64), picture)
    assert (scatter(spoiled[100:], labels[100:], side=64) == 255).all()
    black = image_grid(np.full([1, 4, 4, 1], np.nan), 1, gap=0)
    assert not black.any()


def test_pictures_of_a_noisy_model_and_of_one_without_labels(tmp_path, rng):
    model = perturb(
        ExpandedAEF(
            (8, 8, 1), 3, encoder="dense", decoder="dense", noise_std=0.2, num_levels=17
        ),
        rng,
        0.01,
    )
    images = rng.integers(0, 17, size=(16, 8, 8, 1), dtype=np.uint8)
    callback = Pictures(tmp_path, images, None, lambda epoch: epoch + 1)
    callback.set_model(model)
    names = [name for name, _ in callback.pictures()]
    assert names == [
        "samples/0.85",
        "samples/1.0",
        "reconstructions",
        "denoised",
        "interpolations",
    ]


def test_hyperparameters_are_those_of_the_last_sitting(tmp_path):
    from tensorboard.plugins.hparams import plugin_data_pb2

    def trial(run_dir, iterations):
        settings = {"path": Path("a"), "none": None, "iterations": iterations}
        write_hyperparameters(run_dir / "tensorboard", settings, {"x": 1.0})
        accumulator = events(run_dir / "tensorboard" / "final")
        assert "final/x" in accumulator.Tags()["tensors"]
        content = accumulator.SummaryMetadata("_hparams_/session_start_info")
        data = plugin_data_pb2.HParamsPluginData.FromString(content.plugin_data.content)
        start = data.session_start_info
        assert start.hparams["iterations"].number_value == iterations
        return start.group_name

    first = trial(tmp_path / "a" / "seed3", 2000)
    assert trial(tmp_path / "a" / "seed3", 3000) == first
    assert trial(tmp_path / "b" / "seed3", 3000) != first


def test_a_run_within_a_folder_whose_name_is_no_unicode(tmp_path, monkeypatch):
    place = tmp_path / "caf\udce9"
    place.mkdir()
    monkeypatch.chdir(place)
    write_hyperparameters(Path("run/tensorboard"), {"seed": 3}, {"x": 1.0})
    assert list(place.glob("run/tensorboard/final/events*"))


def test_a_projector_without_labels(tmp_path, rng):
    images = rng.integers(1, 256, size=(5, 4, 2, 3)) / 255.0
    write_projector(tmp_path, rng.normal(size=(5, 3)), images, None)
    assert not (tmp_path / "latents" / "labels.tsv").exists()
    assert np.loadtxt(tmp_path / "latents" / "latents.tsv").shape == (5, 3)
    # The plugin divides both sides of the sheet by the number of columns.
    file = tmp_path / "latents" / "images.png"
    sheet = tf.io.decode_png(file.read_bytes()).numpy()
    height, width = (side // 3 for side in sheet.shape[:2])
    for number, image in enumerate(images):
        top, left = number // 3 * height, number % 3 * width
        tile = sheet[top : top + height, left : left + width]
        np.testing.assert_array_equal(tile, np.rint(255.0 * image))


class Turner:
    """Reconstructs any image as the inverse of its brightness."""

    noise_std = 0.0
    samples, encodes, latent_dim = False, True, 3

    def dequantize(self, x, seed=None):
        return tf.convert_to_tensor(x)

    def corrupt(self, x, seed):
        return tf.convert_to_tensor(x) / 2.0

    def reconstruct(self, x):
        return 1.0 - tf.convert_to_tensor(x)

    def interpolate(self, first, second, num_steps):
        return tf.tile(first[:, None], [1, num_steps, 1, 1, 1])


@pytest.mark.parametrize("number", [1, 5, 8, 13, 20])
@pytest.mark.parametrize("is_noisy", [False, True])
def test_each_reconstruction_is_below_its_image(number, is_noisy, tmp_path, rng):
    model = Turner()
    model.noise_std = 0.5 * is_noisy
    images = rng.integers(0, 256, (number, 28, 28, 1)) / 255.0
    draw_reconstructions(model, images, tmp_path, seed=0)
    [file] = tmp_path.glob("*.png")
    assert file.stem == ("denoised" if is_noisy else "reconstructions")
    check_columns(tf.io.decode_png(file.read_bytes()).numpy(), images[:16], is_noisy)
    callback = Pictures(tmp_path, images, None, lambda epoch: epoch)
    callback.set_model(model)
    pictures = dict(callback.pictures())
    check_columns(pictures["reconstructions"], images[:8], False)
    if is_noisy:
        check_columns(pictures["denoised"], images[:8], True)


def check_columns(picture, images, is_noisy):
    """Compares tiles of 28 pixels and lines of one with what is to be there."""
    columns = min(8, len(images))
    for number, image in enumerate(images):
        shown = [image, 1.0 - image]
        if is_noisy:
            shown = [image / 2.0, 1.0 - image / 2.0, image]
        for row, expected in enumerate(shown):
            top = 29 * (number // columns * len(shown) + row) + 1
            left = 29 * (number % columns) + 1
            tile = picture[top : top + 28, left : left + 28]
            np.testing.assert_array_equal(tile, np.rint(255.0 * expected))
    # What is left of the last row is grey.
    if left + 28 < picture.shape[1] - 1:
        assert (picture[top:, left + 28 :] == 128).all()
