import dataclasses
import fcntl
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from sklearn.datasets import load_digits

from aef_tfp import data
from aef_tfp.data import fingerprint, prepared, storage
from aef_tfp.data.digits import Digits
from aef_tfp.runs.config import EvaluationConfig, RunConfig
from aef_tfp.runs.paper import EXHIBITS
from aef_tfp.runs.presets import PRESETS, get_preset


@pytest.fixture(scope="module")
def digits_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tfds")
    data.load_splits("digits", directory)
    return directory


@pytest.fixture(scope="module")
def digits(digits_dir):
    return data.load_splits("digits", digits_dir)


def one_line(message):
    """A pattern for `pytest.raises(match=...)`: exactly this message."""
    return "^" + re.escape(message) + "$"


def order_in_file(images):
    """For every image its place in scikit-learn's file."""
    places = {
        image.astype(np.uint8).tobytes(): place
        for place, image in enumerate(load_digits().images)
    }
    assert len(places) == 1797  # no image twice, so that the place is well defined
    return [places[image.tobytes()] for image in images]


# The table.


GREY = ["mnist", "fashion_mnist", "kmnist", "emnist_letters"]
FACES = ["celebahq32", "celebahq64", "celeba10k32", "celeba10k64"]


def test_the_table_is_keyed_by_name_and_complete():
    for name, info in data.DATASETS.items():
        assert data.dataset_info(name) is info
        assert info.name == name
        assert re.fullmatch("[a-z0-9_]+", name)  # presets split it off at a hyphen
        assert info.description
        assert list(info.latent_dims) == sorted(set(info.latent_dims))
        assert (info.tfds_name == "") == (info.source != "tfds")
    assert [n for n, i in data.DATASETS.items() if i.source != "tfds"] == [
        "folder",
        "npz",
    ]
    assert data.DATASETS["digits"].num_levels == 17
    assert [n for n, info in data.DATASETS.items() if info.embedded] == ["digits"]
    assert [n for n, info in data.DATASETS.items() if info.flips] == FACES
    assert [n for n, i in data.DATASETS.items() if i.transpose] == ["emnist_letters"]


@pytest.mark.parametrize("name", GREY)
def test_settings_for_mnist_like_data_are_the_papers(name):
    info = data.DATASETS[name]
    assert (info.image_shape, info.num_levels) == ((28, 28, 1), 256)
    assert (info.logit_lambda, info.networks) == (1e-6, "conv")
    assert (info.batch_size, info.learning_rate) == (128, 1e-3)
    assert (info.iterations, info.patience) == (100_000, 0)
    assert info.latent_dims == (2, 4, 8, 16, 32)
    assert (info.validation_split, info.validation_fraction) == (None, 0.1)


@pytest.mark.parametrize(
    ("names", "side", "batch_size", "iterations", "patience", "latent_dims"),
    [
        (["celebahq32", "celeba10k32"], 32, 64, 10**6, 20_000, {64, 128, 256}),
        (["celebahq64", "celeba10k64"], 64, 16, 10**6, 20_000, {64, 128, 256, 512}),
        (["imagenet32", "tiny_imagenet32"], 32, 16, 2 * 10**6, 100_000, {128, 256}),
    ],
)
def test_settings_for_photographs_are_the_papers(
    names, side, batch_size, iterations, patience, latent_dims
):
    for name in names:
        info = data.DATASETS[name]
        assert (info.image_shape, info.num_levels) == ((side, side, 3), 256)
        assert (info.logit_lambda, info.networks) == (0.05, "residual")
        assert (info.batch_size, info.learning_rate) == (batch_size, 1e-4)
        assert (info.iterations, info.patience) == (iterations, patience)
        assert set(info.latent_dims) == latent_dims
    assert data.DATASETS["imagenet32"].validation_fraction == 0.01


def test_the_table_names_builders_that_tfds_has():
    # The rest, apart from our own, is read from its files without any code.
    assert {
        name
        for name, info in data.DATASETS.items()
        if info.source == "tfds"
        and info.tfds_name.split("/")[0] not in {*tfds.list_builders(), "celeba_hq"}
    } == {"celeba10k32", "celeba10k64", "tiny_imagenet32"}
    for name in [*GREY, "cifar10", "imagenet32"]:
        info = data.DATASETS[name]
        builder = tfds.builder(info.tfds_name, data_dir="/none", try_gcs=False)
        assert builder.info.features["image"].shape == info.image_shape
        assert "label" in builder.info.features


def test_an_unknown_name_is_answered_with_the_known_ones_and_a_close_one():
    known = f"there is no data set {{!r}}, only {', '.join(data.DATASETS)}"
    with pytest.raises(
        ValueError, match=one_line(known.format("minst") + "; did you mean 'mnist'?")
    ):
        data.dataset_info("minst")
    with pytest.raises(ValueError, match=one_line(known.format("svhn"))):
        data.load_splits("svhn")


def test_the_names_are_read_without_tensorflow():
    code = (
        "import sys; from aef_tfp import data; data.dataset_info('digits');"
        "sys.exit('tensorflow' in sys.modules or 'sklearn' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    with pytest.raises(AttributeError, match=r"^module 'aef_tfp\.data' has no .*'no'$"):
        data.no  # noqa: B018 (reading it is the test)


# The digits.


def test_digits_are_those_of_scikit_learn(digits):
    bundle = load_digits()
    places = {}
    for split in (digits.train, digits.validation, digits.test):
        assert split.images.dtype == np.uint8
        assert split.images.shape == (len(split), 8, 8, 1)
        assert split.labels.dtype == np.int64
        assert set(np.unique(split.images)) == set(range(17))
        places[id(split)] = order_in_file(split.images)
        np.testing.assert_array_equal(split.labels, bundle.target[places[id(split)]])
    assert [len(p) for p in places.values()] == [1347, 150, 300]
    train, validation, test = places.values()
    # Every image in exactly one split, and the last 300, by other writers, in test.
    assert sorted(train + validation) == list(range(1497))
    assert sorted(test) == list(range(1497, 1797))
    # In the order of the file, the validation images would be one writer's.
    assert max(validation) - min(validation) > 1300


def test_every_digit_is_in_the_validation_images(digits):
    # 15 each on average; a binomial count stays within 4 standard deviations.
    counts = np.bincount(digits.validation.labels, minlength=10)
    assert counts.min() >= 5
    assert counts.max() <= 30


def test_splits_are_the_same_wherever_and_whenever_prepared(digits, tmp_path):
    tf.random.set_seed(5)
    again = data.load_splits("digits", tmp_path)
    for split in ("train", "validation", "test"):
        one, two = getattr(digits, split), getattr(again, split)
        np.testing.assert_array_equal(one.images, two.images)
        np.testing.assert_array_equal(one.labels, two.labels)
    # The order is part of what a seed reproduces: these are the first ten places.
    assert order_in_file(digits.train.images[:5]) == [1456, 499, 837, 546, 386]


def test_digits_are_a_data_set_of_tfds(digits, digits_dir):
    dataset, info = tfds.load(
        "digits", split="test", data_dir=digits_dir, as_supervised=True, with_info=True
    )
    images, labels = next(iter(dataset.batch(300)))
    np.testing.assert_array_equal(images, digits.test.images)
    np.testing.assert_array_equal(labels, digits.test.labels)
    assert info.features["label"].num_classes == 10
    assert str(info.version) == "1.0.0"


def test_loading_says_nothing(tmp_path, capfd, caplog):
    data.load_splits("digits", tmp_path)  # prepares
    data.load_splits("digits", tmp_path)
    assert capfd.readouterr() == ("", "")
    assert [r.getMessage() for r in caplog.records if r.levelname != "INFO"] == []


def test_preparing_leaves_the_progress_bars_as_they_were(tmp_path):
    from tensorflow_datasets.core.utils import tqdm_utils

    try:
        for active in (False, True):
            tfds.display_progress_bar(active)
            (tmp_path / str(active)).mkdir()
            data.load_splits("digits", tmp_path / str(active))
            assert tqdm_utils._active is active
    finally:
        tfds.display_progress_bar(True)


def test_another_process_may_prepare_the_digits_meanwhile(
    digits, tmp_path, monkeypatch
):
    original = Digits._split_generators
    prepared = []

    def slow(self, dl_manager):
        monkeypatch.undo()
        prepared.append(data.load_splits("digits", tmp_path))
        return original(self, dl_manager)

    monkeypatch.setattr(Digits, "_split_generators", slow)
    splits = data.load_splits("digits", tmp_path)
    assert len(prepared) == 1
    np.testing.assert_array_equal(splits.train.images, digits.train.images)
    assert [path.name for path in (tmp_path / "digits").iterdir()] == ["1.0.0"]


def test_digits_that_cannot_be_written(tmp_path):
    (tmp_path / "digits").touch()
    with pytest.raises(
        OSError,
        match=rf"^cannot write data set 'digits' to '{re.escape(str(tmp_path))}'"
        r" \(.*\): pass a directory that can be written with --data-dir"
        r" \(data_dir=\.\.\.\)$",
    ):
        data.load_splits("digits", tmp_path)


@pytest.mark.parametrize("download", [True, False])
@pytest.mark.parametrize("name", ["digits", "mnist", "celebahq32", "celeba10k32"])
def test_a_mistyped_directory_is_named_and_never_made(tmp_path, name, download):
    message = (
        "{}: pass the directory of your TFDS data sets with --data-dir (data_dir=...),"
        " leave it out for TFDS's own, or make it first"
    )
    wrong = tmp_path / "tdfs" / "deeper"
    expected = one_line(message.format(f"there is no directory '{wrong}'"))
    with pytest.raises(FileNotFoundError, match=expected):
        data.load_splits(name, wrong, download=download)
    assert list(tmp_path.iterdir()) == []
    wrong = tmp_path / "file"
    wrong.touch()
    expected = one_line(message.format(f"'{wrong}' is a file, not a directory"))
    with pytest.raises(FileNotFoundError, match=expected):
        data.load_splits(name, wrong, download=download)


@pytest.mark.parametrize(
    ("file", "preset"),
    [
        ("0.JPG", "folder-aef-linear-32"),
        ("cats/0.png", "folder-aef-linear-32"),
        ("a.npz", "npz-aef-linear-32"),
    ],
)
def test_ones_own_images_are_no_place_of_other_data_sets(tmp_path, file, preset):
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.touch()
    message = (
        "{}, but the data set is {!r}: name a preset of your own images, such as {}, or"
        " {}"
    )
    advice = {
        "digits": "leave --data-dir (data_dir=...) out: 'digits' needs none",
        "mnist": "pass the directory of your TFDS data sets with --data-dir"
        " (data_dir=...), which may be a new one",
    }
    places = {tmp_path: f"'{tmp_path}' holds images of your own"}
    if path.suffix == ".npz":
        places[path] = f"'{path}' is a file of your own images"
    for name, place in itertools.product(advice, places):
        expected = message.format(places[place], name, preset, advice[name])
        for load in (data.check_source, data.load_splits):
            with pytest.raises(ValueError, match=one_line(expected)):
                load(name, place)
    assert preset in PRESETS
    # Where there are data sets already, or come to be, pictures do no harm.
    (tmp_path / "new" / "downloads").mkdir(parents=True)
    (tmp_path / "new" / "downloads" / "mnist.npz").touch()
    data.check_source("digits", tmp_path / "new")
    (tmp_path / "mnist" / "3.0.1").mkdir(parents=True)
    (tmp_path / "mnist" / "3.0.1" / "dataset_info.json").touch()
    data.check_source("digits", tmp_path)


@pytest.mark.parametrize("place", ["gs://bucket/tfds", Path("s3://bucket")])
def test_an_address_is_no_directory(place, monkeypatch):
    message = (
        f"data sets are read from directories of this machine, got {str(place)!r}: copy"
        " what is there, and pass that directory with --data-dir (data_dir=...)"
    )
    with pytest.raises(ValueError, match=one_line(message)):
        data.check_source("mnist", place)
    monkeypatch.setenv("TFDS_DATA_DIR", str(place))
    with pytest.raises(ValueError, match=one_line(message)):
        data.check_source("mnist", None)


def test_the_default_directory_is_made(tmp_path, monkeypatch):
    from tensorflow_datasets.core import constants

    monkeypatch.setattr(constants, "DATA_DIR", str(tmp_path / "own"))
    assert len(data.load_splits("digits").train) == 1347
    assert (tmp_path / "own" / "digits").is_dir()


# Data sets that are downloaded.


def test_a_missing_data_set_is_not_downloaded_unasked(tmp_path):
    message = (
        f"there is no data set 'mnist' in '{tmp_path}': pass --download"
        ' (download=True), or run python -c "import tensorflow_datasets as tfds;'
        f" tfds.builder('mnist', data_dir='{tmp_path}').download_and_prepare()\""
    )
    with pytest.raises(FileNotFoundError, match=one_line(message)):
        data.load_splits("mnist", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_data_set_in_the_default_directory():
    from tensorflow_datasets.core import constants

    message = (
        "there is no data set 'mnist' in '/no/such/folder': pass the directory that has"
        " it with --data-dir (data_dir=...), or --download (download=True), or run"
        " python -c \"import tensorflow_datasets as tfds; tfds.builder('mnist').down"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "DATA_DIR", "/no/such/folder")
        with pytest.raises(FileNotFoundError, match=re.escape(message)):
            data.load_splits("mnist")


def test_an_empty_data_dir_is_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no data set 'mnist' in '\.':"):
        data.load_splits("mnist", "")


def test_a_data_dir_may_begin_with_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "tfds").mkdir(parents=True)
    data.load_splits("digits", "~/tfds")
    assert (tmp_path / "home" / "tfds" / "digits").is_dir()
    assert not (tmp_path / "~").exists()


def test_download_is_what_downloads(tmp_path, monkeypatch):
    # Stands for MNIST: prepared only by an explicit download.
    info = dataclasses.replace(data.DATASETS["digits"], embedded=False)
    monkeypatch.setitem(data.DATASETS, "digits", info)
    with pytest.raises(FileNotFoundError, match="no data set 'digits'"):
        data.load_splits("digits", tmp_path)
    assert len(data.load_splits("digits", tmp_path, download=True).train) == 1347
    assert len(data.load_splits("digits", tmp_path).train) == 1347


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"image_shape": (8, 8, 3)},
            "data set 'digits' (train[:90%]) has uint8 images of shape (8, 8, 1), but"
            " its entry in DATASETS says uint8 of shape (8, 8, 3): correct the entry or"
            " the data",
        ),
        (
            {"num_levels": 16},
            "data set 'digits' (train[:90%]) has a pixel of value 16, but its entry in"
            " DATASETS says 16 levels, so at most 15: correct the entry or the data",
        ),
    ],
)
def test_data_that_are_not_as_the_table_says(digits_dir, monkeypatch, change, message):
    info = dataclasses.replace(data.DATASETS["digits"], **change)
    monkeypatch.setitem(data.DATASETS, "digits", info)
    with pytest.raises(ValueError, match=one_line(message)):
        data.load_splits("digits", digits_dir)


def test_the_validation_fraction_and_the_splits_are_the_tables(digits_dir, monkeypatch):
    info = dataclasses.replace(
        data.DATASETS["digits"],
        train_split="test",
        test_split="train",
        validation_fraction=0.34,
    )
    monkeypatch.setitem(data.DATASETS, "digits", info)
    splits = data.load_splits("digits", digits_dir)
    assert splits.info == info
    assert len(splits.train) == 198
    assert len(splits.validation) == 102
    assert len(splits.test) == 1497


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"test_split": "test[:1]"},
            "(test[:1]) has 1 image: there must be at least 2 for test",
        ),
        (
            {"validation_split": "train[:0]"},
            "(train[:0]) has 0 images: there must be at least 1 for validation",
        ),
    ],
)
def test_splits_with_too_few_images(digits_dir, monkeypatch, changes, message):
    info = dataclasses.replace(data.DATASETS["digits"], **changes)
    monkeypatch.setitem(data.DATASETS, "digits", info)
    message = f"data set 'digits' {message}: correct the entry in DATASETS or the data"
    with pytest.raises(ValueError, match=one_line(message)):
        data.load_splits("digits", digits_dir)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 0}, "image_size must be at least 4, got 0."),
        ({"image_size": 3}, "image_size must be at least 4, got 3."),
        ({"seed": 2**32}, "seed must be at most 2**32 - 1, got 4294967296."),
        (
            {"width": 8},
            "width is 8, but it is for residual networks, not conv ones: leave it out.",
        ),
        (
            {"width": 8, "networks": "residual", "model": "pixel-maf"},
            "width is 8, but a pixel-maf has no encoder and no decoder: leave it out.",
        ),
        (
            {"skip_unreadable": True, "dataset": "npz"},
            "skip_unreadable is True, but it is for the data set folder: leave it out.",
        ),
        (
            {"rematerialize": True},
            "rematerialize is True, but it is for residual networks, not conv ones: "
            "leave it out.",
        ),
        (
            {"rematerialize": True, "networks": "residual", "model": "pixel-maf"},
            "rematerialize is True, but a pixel-maf has no encoder and no decoder: "
            "leave it out.",
        ),
        (
            {"expansion_noise": 0.2},
            "expansion_noise is 0.2, but it is for an aef-linear: leave it out.",
        ),
        *(
            (
                {"model": model, "noise_std": 0.1, "denoising_target": "clean"},
                f"denoising_target is 'clean', but {a_model} has densities of noisy "
                "images only: leave it out.",
            )
            for model, a_model in (
                ("aef-corner", "an aef-corner"),
                ("pixel-maf", "a pixel-maf"),
            )
        ),
    ],
)
def test_settings_that_nothing_would_read(settings, message):
    with pytest.raises(ValueError, match=one_line(message)):
        RunConfig(**settings).check()
    used = {"image_size": 4, "skip_unreadable": True, "dataset": "folder"}
    RunConfig(**used, seed=2**32 - 1, width=8, networks="residual").check()


def test_an_evaluation_has_a_seed_of_32_bits():
    EvaluationConfig(seed=2**32 - 1).check()
    with pytest.raises(ValueError, match=r"^seed must be at most 2\*\*32 - 1, got"):
        EvaluationConfig(seed=2**32).check()


def test_an_estimate_takes_two_images():
    message = "num_marginal_images must be at least 2, got 1."
    with pytest.raises(ValueError, match=one_line(message)):
        RunConfig(num_marginal_images=1).check()
    RunConfig(num_marginal_images=2).check()


class Made(tfds.core.GeneratorBasedBuilder):
    """Random colour images of 12 x 10 pixels without labels, in three splits."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        image = tfds.features.Image(shape=(12, 10, 3), encoding_format="png")
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict({"image": image})
        )

    def _split_generators(self, dl_manager):
        sizes = {"train": 20, "validation": 7, "test": 5}
        return {split: self._generate_examples(split, n) for split, n in sizes.items()}

    def _generate_examples(self, split, n):
        rng = np.random.default_rng(n)
        for index in range(n):
            yield index, {"image": rng.integers(0, 256, [12, 10, 3], np.uint8)}


@pytest.fixture(scope="module")
def made_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("made")
    builder = Made(data_dir=directory)
    with prepared._quiet():
        builder.download_and_prepare()
    return directory


@pytest.fixture
def made(monkeypatch):
    """Puts a data set like celeba10k into the table."""

    def put(**changes):
        info = data.DatasetInfo(
            name="made",
            tfds_name="made",
            description="random",
            **{
                "image_shape": (12, 10, 3),
                "num_levels": 256,
                "logit_lambda": 0.05,
                "validation_split": "validation",
                **changes,
            },
        )
        monkeypatch.setitem(data.DATASETS, "made", info)

    return put


def stored_images(directory, split):
    dataset = tfds.load("made", split=split, data_dir=directory)
    return np.stack([example["image"].numpy() for example in dataset])


def test_a_data_set_may_have_no_labels_and_validation_images_of_its_own(made_dir, made):
    made()
    splits = data.load_splits("made", made_dir)
    sizes = {"train": 20, "validation": 7, "test": 5}
    for split, size in sizes.items():
        found = getattr(splits, split)
        assert len(found) == size
        assert found.labels is None
        np.testing.assert_array_equal(found.images, stored_images(made_dir, split))
    assert splits.notes == ()


def test_images_are_cropped_and_resized(made_dir, made):
    made(crop=(2, 1, 8, 6), image_shape=(4, 3, 3))
    found = data.load_splits("made", made_dir).test.images
    for image, whole in zip(found, stored_images(made_dir, "test"), strict=True):
        cut = tf.image.resize(whole[2:10, 1:7], [4, 3], "bicubic", antialias=True)
        np.testing.assert_array_equal(image, np.clip(np.round(cut), 0, 255))
        # Without antialiasing every other pixel would be left out.
        plain = tf.image.resize(whole[2:10, 1:7], [4, 3], "bicubic")
        assert np.abs(image - np.clip(plain, 0, 255)).mean() > 5


def test_what_interpolation_overshoots_is_cut_off(made_dir, made):
    made(crop=(2, 1, 4, 4), image_shape=(12, 12, 3))
    found = data.load_splits("made", made_dir).train.images
    whole = tf.constant(stored_images(made_dir, "train")[:, 2:6, 1:5])
    smooth = tf.image.resize(whole, [12, 12], "bicubic", antialias=True).numpy()
    assert smooth.min() < -10
    assert smooth.max() > 265
    np.testing.assert_array_equal(found, np.clip(np.round(smooth), 0, 255))


def test_interpolation_makes_no_other_levels():
    class Stored:
        def as_dataset(self, **options):
            image = np.zeros([2, 8, 8, 1], np.uint8)
            image[:, 2:6, 2:6] = [[[[16]]], [[[18]]]]
            return tf.data.Dataset.from_tensor_slices({"image": image})

    info = dataclasses.replace(
        data.dataset_info("digits"), crop=(0, 0, 8, 8), image_shape=(11, 11, 1)
    )
    [batch] = prepared._examples(Stored(), info, "test").as_numpy_iterator()
    # A pixel above the levels is still to be refused.
    assert [image.max() for image in batch["image"]] == [16, 18]


def test_a_crop_to_the_wanted_size_changes_no_pixel(made_dir, made):
    made(crop=(3, 0, 8, 8), image_shape=(8, 8, 3))
    found = data.load_splits("made", made_dir).validation.images
    expected = stored_images(made_dir, "validation")[:, 3:11, 0:8]
    np.testing.assert_array_equal(found, expected)


def test_transposed_images_are_set_upright(made_dir, made):
    made(transpose=True, image_shape=(10, 12, 3))
    found = data.load_splits("made", made_dir).train.images
    expected = stored_images(made_dir, "train").transpose(0, 2, 1, 3)
    np.testing.assert_array_equal(found, expected)
    made(transpose=True, crop=(2, 1, 8, 6), image_shape=(6, 8, 3))
    found = data.load_splits("made", made_dir).train.images
    np.testing.assert_array_equal(found, expected[:, 1:7, 2:10])


def test_a_crop_that_leaves_the_images(made_dir, made):
    made(crop=(5, 0, 8, 8), image_shape=(8, 8, 3))
    message = (
        "data set 'made' (train) has images of shape (12, 10, 3), but its entry in"
        " DATASETS crops 8 x 8 pixels from row 5 and column 0: correct the entry or the"
        " data"
    )
    with pytest.raises(ValueError, match=one_line(message)):
        data.load_splits("made", made_dir)


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-100])


def empty(path):
    path.write_bytes(b"")


def without_images(path):
    records = [r.numpy() for r in tf.data.TFRecordDataset(str(path))]
    example = tf.train.Example.FromString(records[0])
    example.features.feature["image"].bytes_list.value[0] = b"no image"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in (example.SerializeToString(), *records[1:]):
            writer.write(record)


RECORDS = "digits-test.tfrecord-00000-of-00001"


@pytest.mark.parametrize(
    ("name", "damage", "reason"),
    [
        (RECORDS, cut_short, r"test: truncated record at \d+' .*"),
        (RECORDS, empty, "test: .* contain 300 elements but contained only 0 elements"),
        (RECORDS, without_images, "test: Unknown image file format.*"),
        (RECORDS, os.remove, f"{RECORDS} is missing"),
        ("dataset_info.json", cut_short, "Failed to load JSON: .*"),
        ("dataset_info.json", empty, "Failed to load JSON: .*"),
    ],
)
def test_damaged_files_of_tfds(digits_dir, tmp_path, name, damage, reason):
    folder = tmp_path / "digits" / "1.0.0"
    shutil.copytree(digits_dir / "digits" / "1.0.0", folder)
    damage(folder / name)
    message = (
        rf"^data set 'digits' in '{folder}' is damaged \({reason}\): put it there"
        " again$"
    )
    with pytest.raises(ValueError, match=message):
        data.load_splits("digits", tmp_path)


# Data sets that a person must fetch.


@pytest.mark.parametrize(
    ("name", "damage", "reason"),
    [
        ("features.json", cut_short, ".* line 1 .*"),
        ("dataset_info.json", os.remove, "Could not read dataset info from .*"),
    ],
)
def test_damaged_files_of_a_data_set_without_code(
    digits_dir, tmp_path, name, damage, reason
):
    # In the place of celeba10k, of which nothing but its files is known.
    folder = tmp_path / "celeba10k" / "1.0.0"
    shutil.copytree(digits_dir / "digits" / "1.0.0", folder)
    text = (folder / "features.json").read_text()
    (folder / "features.json").write_text(" ".join(text.split()))
    damage(folder / name)
    message = (
        rf"^data set 'celeba10k32' in '{folder}' is damaged \({reason}\): put it there"
        " again$"
    )
    with pytest.raises(ValueError, match=message):
        data.load_splits("celeba10k32", tmp_path)


@pytest.mark.parametrize("name", ["celeba10k32", "celeba10k64", "tiny_imagenet32"])
@pytest.mark.parametrize("download", [True, False])
def test_missing_files_of_a_data_set_without_code(tmp_path, name, download):
    folder = {"tiny_imagenet32": "tiny_imagenet32"}.get(name, "celeba10k")
    message = (
        f"there is no data set {name!r} in '{tmp_path}', and nothing can download it:"
        " no code makes this one, so put its files, as TFDS wrote them"
        " (dataset_info.json, features.json, *.tfrecord-*), into"
        f" {tmp_path}/{folder}/1.0.0"
    )
    with pytest.raises(FileNotFoundError, match=one_line(message)):
        data.load_splits(name, tmp_path, download=download)


def test_an_entry_with_a_builder_that_does_not_exist(tmp_path, made):
    made()
    info = dataclasses.replace(data.DATASETS["made"], tfds_name="no_such_builder")
    data.DATASETS["made"] = info  # undone by the fixture
    message = (
        "data set 'made' has no TFDS builder 'no_such_builder': import the module that"
        " defines it, or correct the entry in DATASETS"
    )
    with pytest.raises(ValueError, match=one_line(message)):
        data.load_splits("made", tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"image_size": 32},
            "image_size is 32, but data set 'digits' has images of 8 x 8: leave it out",
        ),
        (
            {"channels": 3},
            "channels is 3, but the images of data set 'digits' have 1: leave it out",
        ),
        (
            {"channels": 4},
            "channels must be 1 (grey) or 3 (RGB), got 4: transparency is no channel of"
            " an image here",
        ),
        (
            {"num_levels": 16},
            "num_levels is 16, but the images of data set 'digits' have 17 levels:"
            " leave it out",
        ),
        ({"image_size": 0}, "image_size must be at least 4, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_arguments_that_the_data_do_not_have(digits_dir, arguments, message):
    with pytest.raises(ValueError, match=one_line(message)):
        data.load_splits("digits", digits_dir, **arguments)
    data.load_splits("digits", digits_dir, image_size=8, channels=1, seed=9)
    data.load_splits("digits", digits_dir, num_levels=17)


def test_a_run_on_a_data_set_of_the_table_has_its_levels():
    RunConfig(dataset="folder", num_levels=17).check()
    message = "num_levels is 17, but data set 'digits' has 17 levels: leave it out."
    with pytest.raises(ValueError, match=one_line(message)):
        RunConfig(dataset="digits", num_levels=17).check()


# Images that do not fit into memory.


def test_images_above_the_limit_are_mapped_from_a_cache(
    digits, digits_dir, tmp_path, monkeypatch
):
    limit = 300 * 64  # the test images alone just fit
    arguments = {"memory_limit": limit, "cache_dir": tmp_path / "cache"}
    splits = data.load_splits("digits", digits_dir, **arguments)
    assert isinstance(splits.train.images, np.memmap)
    assert not splits.train.images.flags.writeable
    assert not isinstance(splits.validation.images, np.memmap)
    assert not isinstance(splits.test.images, np.memmap)
    (entry,) = (tmp_path / "cache").iterdir()
    note = (
        "digits: 86.2 kB of decoded images exceed the memory limit of 19.2 kB:"
        f" {{}} {entry}, which may be deleted"
    )
    assert splits.notes == (note.format("cached in"),)
    for split in ("train", "validation", "test"):
        one, two = getattr(digits, split), getattr(splits, split)
        np.testing.assert_array_equal(one.images, two.images)
        np.testing.assert_array_equal(one.labels, two.labels)

    # The next run decodes the others only.
    read = []
    original = prepared._examples
    monkeypatch.setattr(
        prepared, "_examples", lambda *a: read.append(a[-1]) or original(*a)
    )
    again = data.load_splits("digits", digits_dir, **arguments)
    assert read == ["train[90%:]", "test"]
    assert again.notes == (note.format("read from the cache"),)
    np.testing.assert_array_equal(again.train.images, digits.train.images)
    np.testing.assert_array_equal(again.train.labels, digits.train.labels)


def test_a_cache_serves_only_what_it_was_made_from(made_dir, made, tmp_path):
    arguments = {"memory_limit": 0, "cache_dir": tmp_path}
    shapes = {"image_shape": (8, 8, 3)}
    made(crop=(3, 0, 8, 8), **shapes)
    one = data.load_splits("made", made_dir, **arguments).train.images
    made(crop=(3, 1, 8, 8), **shapes)
    two = data.load_splits("made", made_dir, **arguments).train.images
    assert not np.array_equal(one, two)
    made(crop=(3, 0, 8, 8), transpose=True, **shapes)
    three = data.load_splits("made", made_dir, **arguments).train.images
    np.testing.assert_array_equal(one, np.asarray(three).transpose(0, 2, 1, 3))
    assert len(list(tmp_path.iterdir())) == 9


def test_a_failure_leaves_no_cache(digits_dir, tmp_path, monkeypatch):
    info = dataclasses.replace(data.DATASETS["digits"], num_levels=16)
    monkeypatch.setitem(data.DATASETS, "digits", info)
    with pytest.raises(ValueError, match="has a pixel of value 16"):
        data.load_splits("digits", digits_dir, memory_limit=0, cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_another_process_may_fill_the_cache_meanwhile(tmp_path):
    calls = []

    def decode(fill):
        arguments = {"key": 1, "memory_limit": 0, "cache_dir": tmp_path}
        return storage.decode_once("made", (4, 2, 2, 1), fill, **arguments)

    def fast(out):
        calls.append("fast")
        out[:] = 7
        return 3, None, {"fact": 1}

    def slow(out):
        calls.append("slow")
        decode(fast)
        out[:] = 7
        return 3, None, {"fact": 1}

    decoded = decode(slow)
    assert calls == ["slow", "fast"]
    np.testing.assert_array_equal(decoded.images, np.full([3, 2, 2, 1], 7))
    assert decoded.facts == {"fact": 1}
    assert len(list(tmp_path.iterdir())) == 1
    decode(pytest.fail)


def test_the_cache_keeps_nothing_of_processes_that_were_killed(tmp_path):
    def decode(key, fill):
        arguments = {"key": key, "memory_limit": 0, "cache_dir": tmp_path}
        return storage.decode_once("made", (4, 2, 2, 1), fill, **arguments)

    def unfinished():
        return {path.name for path in tmp_path.glob(".unfinished-*")}

    (tmp_path / ".unfinished-killed").mkdir()
    (tmp_path / ".unfinished-killed" / "images.npy").touch()
    living = tmp_path / ".unfinished-living"
    living.mkdir()
    lock = os.open(living, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)

    def fill(out):
        before = unfinished()
        decode(2, lambda out: (4, None, {}))
        assert unfinished() == before
        assert len(before) == 2
        return 4, None, {}

    was = os.umask(0o027)
    try:
        decode(1, fill)
    finally:
        os.umask(was)
        os.close(lock)
    assert unfinished() == {living.name}
    modes = {path.stat().st_mode & 0o777 for path in tmp_path.glob("made-*")}
    assert modes == {0o750}


def test_a_cache_that_cannot_be_written(digits_dir, tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(
        OSError,
        match=rf"^cannot write the cache of decoded images to '{file}' \(.*\): set"
        r" XDG_CACHE_HOME to a folder that can be written \(cache_dir=\.\.\.\)$",
    ):
        data.load_splits("digits", digits_dir, memory_limit=0, cache_dir=file)
    full = type("Usage", (), {"free": 999})()
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda path: full)
    message = (
        f"the cache of decoded images needs 86.2 kB in '{tmp_path}', which has 999"
        " bytes left: set XDG_CACHE_HOME to a folder with more room (cache_dir=...), or"
        " make room"
    )
    with pytest.raises(OSError, match=one_line(message)):
        data.load_splits("digits", digits_dir, memory_limit=0, cache_dir=tmp_path)


def test_the_limit_is_a_part_of_the_memory_and_the_cache_the_users(
    tmp_path, monkeypatch
):
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 10**6 < storage.default_limit() <= physical // 4
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert storage.default_cache_dir() == tmp_path / "aef_tfp"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert storage.default_cache_dir() == tmp_path / "home" / ".cache" / "aef_tfp"


def test_the_ablations_of_table_7_are_presets():
    ends = {"no flows": "no-flows", "only prior": "only-prior", "both flows": ""}
    found = {}
    for row in EXHIBITS["table-7"].experiments:
        config = row.config
        first = "only-posterior" if config.model == "vae" else "only-core"
        end = {**ends, "only posterior": first}[row.variant]
        name = f"{config.dataset}-{config.model}-{config.latent_dim}-{end}".rstrip("-")
        assert get_preset(name) == config
        found[name] = config
    assert len(set(map(RunConfig.to_json, found.values()))) == 8
    # There are no others.
    assert {n for n in PRESETS if "-only-" in n or "-no-flows" in n} < set(found)
    with pytest.raises(ValueError, match="close to it: celebahq32-aef-linear-128-only"):
        get_preset("celebahq32-aef-linear-128-only-posterior")


# Images that change between two parts of a run.


def test_a_fingerprint_says_what_changed(digits, tmp_path):
    path = tmp_path / "data.json"
    fingerprint.check_fingerprint(path, digits)  # Older runs have none.
    path.write_text(json.dumps(fingerprint.fingerprint(digits)))
    fingerprint.check_fingerprint(path, digits)

    def changed(**parts):
        new = {
            name: data.Split(change(getattr(digits, name).images.copy()))
            for name, change in parts.items()
        }
        splits = dataclasses.replace(digits, **new)
        with pytest.raises(ValueError, match=r"^the images are not those") as raised:
            fingerprint.check_fingerprint(path, splits)
        message = str(raised.value)
        assert message.endswith(
            "): put them back, or start a new run; without"
            f" '{path}' nothing is compared"
        )
        return message.partition("(")[2].partition("): ")[0]

    def brighter(images):
        images[-1, 3, 4] += 1
        return images

    found = changed(train=lambda images: images[1:], test=brighter)
    assert found == "train: 1,347 -> 1,346 images, test: other images"
    found = changed(validation=lambda images: images[::-1])
    assert found == "validation: other images"
    info = dataclasses.replace(digits.info, image_shape=(4, 16, 1))
    splits = dataclasses.replace(digits, info=info)
    with pytest.raises(ValueError, match=r"\(shape \(8, 8, 1\) -> \(4, 16, 1\)\)"):
        fingerprint.check_fingerprint(path, splits)
    for text in ("{", "{}", "[]"):
        path.write_text(text)
        message = (
            f"'{path}' does not say what the images of the run were: delete it to go on"
            " without this comparison"
        )
        with pytest.raises(ValueError, match=one_line(message)):
            fingerprint.check_fingerprint(path, digits)


def test_of_many_images_some_are_looked_at(tmp_path):
    class Counted:
        shape = (10**6, 2, 2, 1)
        asked: list[int] = []  # noqa: RUF012 (one of its kind)

        def __len__(self):
            return self.shape[0]

        def __getitem__(self, index):
            self.asked.append(int(index))
            return np.zeros([2, 2, 1], np.uint8)

    fingerprint._digest(Counted())
    assert len(set(Counted.asked)) == 4096
    assert (Counted.asked[0], Counted.asked[-1]) == (0, 10**6 - 1)
    assert np.ptp(np.diff(Counted.asked)) <= 1


# The real data sets.


@pytest.fixture(scope="module")
def real_dir():
    if "AEF_TFP_DATA_DIR" not in os.environ:
        pytest.skip("AEF_TFP_DATA_DIR does not name a folder of TFDS data sets")
    return os.environ["AEF_TFP_DATA_DIR"]


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "mean"), [("mnist", 0.1307), ("fashion_mnist", 0.2860)]
)
def test_real_images(real_dir, name, mean, capfd):
    splits = data.load_splits(name, real_dir)
    assert capfd.readouterr() == ("", "")
    lengths = [len(s) for s in (splits.train, splits.validation, splits.test)]
    assert lengths == [54_000, 6_000, 10_000]
    assert splits.train.images.shape == (54_000, 28, 28, 1)
    both = np.concatenate([splits.train.images, splits.validation.images])
    # The published mean is that of all 60,000.
    assert np.mean(both) / 255 == pytest.approx(mean, abs=5e-5)
    assert np.mean(splits.train.images) / 255 == pytest.approx(mean, abs=5e-4)
    assert np.max(splits.test.images) == 255
    counts = np.bincount(splits.validation.labels, minlength=10)
    assert counts.min() > 500
    assert counts.max() < 720

    n = len(splits.train)
    batches = data.training_batches(splits.train.images, 1000, seed=0)
    total = sum(int(batch.sum()) for batch in batches.take(54).as_numpy_iterator())
    assert total == splits.train.images.sum(dtype=np.int64)
    assert n % 1000 == 0


def load_real(real_dir, name):
    try:
        return data.load_splits(name, real_dir)
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.mark.realdata
@pytest.mark.parametrize("side", [32, 64])
def test_real_faces(real_dir, side):
    splits = load_real(real_dir, f"celeba10k{side}")
    lengths = [len(s) for s in (splits.train, splits.validation, splits.test)]
    assert lengths == [8_000, 1_000, 1_000]
    images = splits.train.images
    assert images.shape == (8_000, side, side, 3)
    # Without the background: those of the whole images are 0.501, 0.426, 0.378.
    means = np.mean(images, axis=(0, 1, 2)) / 255
    np.testing.assert_allclose(means, [0.514, 0.417, 0.358], atol=0.001)
    # The documented recipe, on the first ten.
    examples = tfds.load("celeba10k", split="train[:10]", data_dir=real_dir)
    for example, image in zip(examples, images[:10], strict=True):
        cut = tf.image.resize(
            example["image"][17:91, 7:81], [side, side], "bicubic", antialias=True
        )
        np.testing.assert_array_equal(image, np.clip(np.round(cut), 0, 255))
    # Upright and in the middle: eyes are darker than what is right below them.
    rows = np.mean(images, axis=(0, 2, 3))
    assert rows[int(0.42 * side)] < rows[int(0.58 * side)]


@pytest.mark.realdata
def test_real_photographs(real_dir):
    splits = load_real(real_dir, "tiny_imagenet32")
    lengths = [len(s) for s in (splits.train, splits.validation, splits.test)]
    assert lengths == [12_000, 1_000, 2_000]
    assert splits.train.images.shape == (12_000, 32, 32, 3)
    for split, count in [(splits.train, 60), (splits.validation, 5), (splits.test, 10)]:
        np.testing.assert_array_equal(np.bincount(split.labels), np.full(200, count))
    # ImageNet's channel means.
    means = np.mean(splits.train.images, axis=(0, 1, 2)) / 255
    np.testing.assert_allclose(means, [0.480, 0.448, 0.398], atol=0.01)
