import dataclasses
import itertools
import json
import os
import re
import socket
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from sklearn.datasets import load_digits

from aef_tfp import data
from aef_tfp.data import loading
from aef_tfp.data.digits import Digits


@pytest.fixture(scope="module")
def digits_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tfds")
    data.load_splits("digits", directory)
    return directory


@pytest.fixture(scope="module")
def digits(digits_dir):
    return data.load_splits("digits", digits_dir)


def numbered(n, shape=(2, 2, 1)):
    """Images that are recognized by the value of their pixels."""
    return np.arange(n, dtype=np.uint8).reshape(n, 1, 1, 1) * np.ones(shape, np.uint8)


def numbers(batches, count=None):
    """The numbers of the images in the (first `count`) batches, as lists."""
    batches = batches if count is None else batches.take(count)
    return [batch[:, 0, 0, 0].tolist() for batch in batches.as_numpy_iterator()]


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


def test_the_table_is_keyed_by_name_and_complete():
    assert list(data.DATASETS) == ["digits", "mnist", "fashion_mnist", "kmnist"]
    for name, info in data.DATASETS.items():
        assert data.dataset_info(name) is info
        assert info.name == name
        assert info.logit_lambda == 1e-6
    assert data.DATASETS["digits"].num_levels == 17
    assert [n for n, info in data.DATASETS.items() if info.embedded] == ["digits"]


def test_an_unknown_name_is_answered_with_the_known_ones_and_a_close_one():
    known = "there is no data set {!r}, only digits, mnist, fashion_mnist, kmnist"
    with pytest.raises(
        ValueError, match=one_line(known.format("minst") + "; did you mean 'mnist'?")
    ):
        data.dataset_info("minst")
    with pytest.raises(ValueError, match=one_line(known.format("imagenet"))):
        data.load_splits("imagenet")


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
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(
        OSError,
        match=rf"^cannot write data set 'digits' to '{re.escape(str(file))}' \(.*\):"
        r" pass a data_dir that can be written$",
    ):
        data.load_splits("digits", file)


# Data sets that are downloaded.


@pytest.mark.parametrize("exists", [True, False])
def test_a_missing_data_set_is_not_downloaded_unasked(tmp_path, exists):
    directory = tmp_path if exists else tmp_path / "none"
    message = (
        f"there is no data set 'mnist' in '{directory}': pass --download"
        ' (download=True), or run python -c "import tensorflow_datasets as tfds;'
        f" tfds.builder('mnist', data_dir='{directory}').download_and_prepare()\""
    )
    with pytest.raises(FileNotFoundError, match=one_line(message)):
        data.load_splits("mnist", directory)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_data_set_in_the_default_directory():
    from tensorflow_datasets.core import constants

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "DATA_DIR", "/no/such/folder")
        with pytest.raises(FileNotFoundError, match=r"tfds\.builder\('mnist'\)\."):
            data.load_splits("mnist")


def test_an_empty_data_dir_is_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no data set 'mnist' in '\.':"):
        data.load_splits("mnist", "")


def test_a_data_dir_may_begin_with_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
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


def test_a_data_set_may_have_no_labels():
    class Unlabelled:
        def as_dataset(self, **kwargs):
            return {"image": tf.zeros([3, 8, 8, 1], tf.uint8)}

    split = loading._read(Unlabelled(), data.DATASETS["digits"], "train")
    assert split.labels is None
    assert len(split) == 3


# Batches for training.


@pytest.mark.parametrize(
    ("n", "batch_size"), [(12, 4), (10, 4), (7, 7), (5, 3), (3, 8), (1, 2)]
)
def test_every_epoch_holds_every_image_once(n, batch_size):
    num_batches = 6 * n  # an exact number of epochs: 6 * batch_size
    batches = data.training_batches(numbered(n), batch_size, seed=3)
    order = np.reshape(numbers(batches, num_batches), [-1, n])
    assert len(order) == 6 * batch_size
    np.testing.assert_array_equal(
        np.sort(order, axis=1), np.tile(np.arange(n), [len(order), 1])
    )


def test_batches_have_a_static_shape():
    batches = data.training_batches(numbered(10, (4, 3, 2)), 6, seed=0)
    assert batches.element_spec == tf.TensorSpec([6, 4, 3, 2], tf.uint8)
    assert batches.take(3).cardinality() != 0
    assert next(iter(batches)).shape == [6, 4, 3, 2]


def test_the_whole_image_is_gathered():
    images = np.random.default_rng(0).integers(0, 256, [50, 3, 2, 2], np.uint8)
    images[:, 0, 0, 0] = np.arange(50)
    batch = next(data.training_batches(images, 50, seed=1).as_numpy_iterator())
    np.testing.assert_array_equal(batch, images[batch[:, 0, 0, 0]])


def test_the_seed_and_nothing_else_decides_the_order():
    images = numbered(100)
    tf.random.set_seed(1)
    first = numbers(data.training_batches(images, 30, seed=7), 20)
    tf.random.set_seed(2)
    batches = data.training_batches(images, 30, seed=7)
    assert numbers(batches, 20) == first
    assert numbers(batches, 20) == first  # the same on a second pass


def test_the_order_does_not_change_between_versions():
    # A resumed run may meet a newer TensorFlow: then these numbers must be the same.
    expected = [[0, 2, 1, 4], [6, 7, 5, 3], [0, 7, 2, 6], [5, 4, 3, 1]]
    assert numbers(data.training_batches(numbered(8), 4, seed=1), 4) == expected


def test_orders_are_unlike_each_other():
    # Of two random permutations, one place in n agrees on average.
    n = 256
    images = numbered(n)
    largest = 2**63 - 1
    orders = {
        (seed, epoch): numbers(
            data.training_batches(images, n, seed=seed, start_step=epoch), 1
        )[0]
        for seed in (0, 1, 2**8, 2**32, largest)
        for epoch in (0, 1, 256, 2**16, 2**32)
    }
    orders["file"] = list(range(n))
    matrix = np.array(list(orders.values()))
    for one, two in itertools.combinations(matrix, 2):
        assert np.mean(one == two) < 0.05
    correlation = np.corrcoef(matrix) - np.eye(len(matrix))
    assert np.abs(correlation).max() < 6 / np.sqrt(n)


def test_every_permutation_is_as_likely_as_every_other():
    order = numbers(data.training_batches(numbered(3), 3, seed=11), 1200)
    counts = [order.count(list(p)) for p in itertools.permutations(range(3))]
    assert sum(counts) == 1200
    # Chi-squared with 5 degrees of freedom: above 25.7 in 1 of 10,000 cases.
    assert sum((count - 200) ** 2 / 200 for count in counts) < 25.7


@pytest.mark.parametrize(("n", "batch_size"), [(12, 4), (10, 4), (3, 8), (100, 7)])
def test_a_run_resumes_where_it_stopped(n, batch_size):
    images = numbered(n)
    whole = numbers(data.training_batches(images, batch_size, seed=9), 40)
    for start in (1, 2, 3, 5, 29, 30):
        rest = data.training_batches(images, batch_size, seed=9, start_step=start)
        assert numbers(rest, 40 - start) == whole[start:]


def test_a_late_start_costs_nothing_and_does_not_overflow():
    images = numbered(100)
    start = 10**13  # 2.56e15 images: counters of 32 bits would be long exhausted
    late = numbers(data.training_batches(images, 256, seed=2, start_step=start), 2)
    assert late[0][0:100] != late[0][100:200]
    following = data.training_batches(images, 256, seed=2, start_step=start + 1)
    assert numbers(following, 1) == late[1:]


def test_images_changed_later_do_not_change_the_batches():
    images = numbered(6)
    batches = data.training_batches(images, 6, seed=2)
    images[:] = 99
    assert sorted(numbers(batches, 1)[0]) == list(range(6))


def test_batches_without_an_array_of_bytes():
    message = "images must be a uint8 array [n, H, W, C], got "
    for images, got in [
        (np.zeros([3, 2, 2, 1], np.float32), "float32 of shape (3, 2, 2, 1)"),
        (np.zeros([3, 2, 2], np.uint8), "uint8 of shape (3, 2, 2)"),
    ]:
        expected = one_line(f"{message}{got}: convert or reshape it")
        with pytest.raises(ValueError, match=expected):
            data.training_batches(images, 2, seed=0)
        with pytest.raises(ValueError, match=expected):
            data.evaluation_batches(images, 2)
    expected = one_line(f"{message}list: convert it with np.asarray")
    with pytest.raises(ValueError, match=expected):
        data.training_batches([[[[1]]]], 2, seed=0)
    for shape in [(0, 2, 2, 1), (3, 2, 0, 1)]:
        expected = one_line(
            "images must hold at least one image of at least one pixel, got shape"
            f" {shape}: check how they were selected"
        )
        with pytest.raises(ValueError, match=expected):
            data.training_batches(np.zeros(shape, np.uint8), 2, seed=0)
        with pytest.raises(ValueError, match=expected):
            data.evaluation_batches(np.zeros(shape, np.uint8), 2)


@pytest.mark.parametrize(
    ("argument", "low", "wrong"),
    [
        ("batch_size", 1, [0, -3, 2.0, True, "8", None]),
        ("seed", 0, [-1, 2**63, 1.5, None]),
        ("start_step", 0, [-1, 0.0]),
    ],
)
def test_arguments_that_are_no_such_integers(argument, low, wrong):
    for value in wrong:
        arguments = {"batch_size": 2, "seed": 0, argument: value}
        message = one_line(
            f"{argument} must be an integer from {low} to 2**63 - 1, got {value!r}:"
            " pass another"
        )
        with pytest.raises(ValueError, match=message):
            data.training_batches(numbered(4), **arguments)
        if argument == "batch_size":
            with pytest.raises(ValueError, match=message):
                data.evaluation_batches(numbered(4), value)


def test_integers_of_numpy_are_integers():
    # As a product of bytes, 200 * 200 would be 64.
    arguments = {"seed": np.int32(4), "start_step": np.uint8(200)}
    one = data.training_batches(numbered(30), np.uint8(200), **arguments)
    two = data.training_batches(numbered(30), 200, seed=4, start_step=200)
    assert numbers(one, 2) == numbers(two, 2)


# Batches for evaluation.


@pytest.mark.parametrize(("n", "batch_size"), [(7, 3), (6, 3), (2, 5), (3, 1)])
def test_evaluation_sees_every_image_once_and_in_order(n, batch_size):
    batches = data.evaluation_batches(numbered(n), batch_size)
    order = numbers(batches)
    assert list(itertools.chain(*order)) == list(range(n))
    assert [len(batch) for batch in order[:-1]] == [batch_size] * (len(order) - 1)
    assert batches.cardinality() == len(order)
    assert batches.element_spec == tf.TensorSpec([None, 2, 2, 1], tf.uint8)


# Several workers.

_WORKER = """
import json
import numpy as np
import tensorflow as tf
from aef_tfp import data

strategy = tf.distribute.MultiWorkerMirroredStrategy()
assert strategy.num_replicas_in_sync == 2
images = np.arange(50, dtype=np.uint8).reshape(50, 1, 1, 1)
for batches in [
    data.training_batches(images, 12, seed=3, start_step=2).take(10),
    data.evaluation_batches(images, 12),
]:
    parts = []
    for batch in strategy.experimental_distribute_dataset(batches):
        (part,) = strategy.experimental_local_results(batch)
        parts.append(part.numpy().ravel().tolist())
    print(json.dumps(parts))
"""


def test_two_workers_share_every_batch():
    with socket.socket() as one, socket.socket() as two:
        one.bind(("localhost", 0))
        two.bind(("localhost", 0))
        cluster = {"worker": [f"localhost:{s.getsockname()[1]}" for s in (one, two)]}
    workers = []
    for index in range(2):
        config = {"cluster": cluster, "task": {"type": "worker", "index": index}}
        workers.append(
            subprocess.Popen(
                [sys.executable, "-c", _WORKER],
                env={**os.environ, "TF_CONFIG": json.dumps(config)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    try:
        outputs = [worker.communicate(timeout=120) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    for worker, (_, errors) in zip(workers, outputs, strict=True):
        assert worker.returncode == 0, errors
    first, second = ([json.loads(s) for s in out.splitlines()] for out, _ in outputs)

    images = numbered(50)
    training = data.training_batches(images, 12, seed=3, start_step=2)
    evaluation = data.evaluation_batches(images, 12)
    for index, whole in enumerate([numbers(training, 10), numbers(evaluation)]):
        parts = list(zip(first[index], second[index], strict=True))
        assert [one + two for one, two in parts] == whole
        # All but the last batch for evaluation, of two images, are cut in half.
        assert all(len(one) == len(two) == 6 for one, two in parts[:4])


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
