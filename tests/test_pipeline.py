"""Batches of images: their order, flips, memory maps, several workers."""

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

from aef_tfp import data


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


@pytest.fixture
def mapped(tmp_path):
    """Writes images to a file and maps that into memory."""

    def to_map(images):
        np.save(tmp_path / "images.npy", images)
        return np.load(tmp_path / "images.npy", mmap_mode="r")

    return to_map


@pytest.mark.parametrize("flips", [True, False])
def test_mapped_images_give_the_same_batches(mapped, rng, flips):
    images = rng.integers(0, 256, [50, 4, 3, 2], np.uint8)
    file = mapped(images)
    assert isinstance(file[5:45], np.memmap)
    for one, two in [(images, file), (images[5:45], file[5:45])]:
        options = {"seed": 4, "start_step": 3, "flips": flips}
        batches = [data.training_batches(i, 16, **options) for i in (one, two)]
        assert batches[0].element_spec == batches[1].element_spec
        pairs = zip(*(b.take(9).as_numpy_iterator() for b in batches), strict=True)
        for batch, expected in pairs:
            np.testing.assert_array_equal(batch, expected)


def test_flips_are_left_to_right_and_of_half_the_images():
    images = numbered(200, (2, 3, 1))
    images[:, 0, 0] = 200
    images[:, 1, 2] = 201
    flipped = 0
    plain = data.training_batches(images, 64, seed=5).take(40)
    batches = data.training_batches(images, 64, seed=5, flips=True).take(40)
    for batch, original in zip(
        batches.as_numpy_iterator(), plain.as_numpy_iterator(), strict=True
    ):
        for image, source in zip(batch, original, strict=True):
            if not np.array_equal(image, source):
                np.testing.assert_array_equal(image, source[:, ::-1])
                flipped += 1
    # 40 * 64 coins: 1,280 on average, with a standard deviation of 25.
    assert abs(flipped - 1280) < 4 * 25.3


def coins(batches, count):
    """Which images of the first batches are flipped."""
    return [b[:, 0, 0, 0] == 9 for b in batches.take(count).as_numpy_iterator()]


def arrows(n):
    images = np.zeros([n, 1, 2, 1], np.uint8)
    images[:, 0, 1] = 9
    return images


def test_seed_and_step_decide_the_flips():
    images = arrows(64)
    batches = data.training_batches(images, 64, seed=5, flips=True)
    whole = coins(batches, 12)
    np.testing.assert_array_equal(coins(batches, 12), whole)
    # Neither the order nor the epoch: the same coins for more images.
    np.testing.assert_array_equal(
        coins(data.training_batches(arrows(100), 64, seed=5, flips=True), 12), whole
    )
    for start in (1, 7):
        rest = data.training_batches(images, 64, seed=5, flips=True, start_step=start)
        np.testing.assert_array_equal(coins(rest, 12 - start), whole[start:])
    other = coins(data.training_batches(images, 64, seed=6, flips=True), 12)
    for one, two in itertools.combinations([*whole, *other], 2):
        assert 12 < np.sum(one == two) < 52  # 32 on average, 5 standard deviations
    # A resumed run may meet a newer TensorFlow: then these must be the same.
    first = np.flatnonzero(whole[0][:16]).tolist()
    assert first == [0, 2, 5, 6, 7, 8, 11]


# Batches for evaluation.


def test_evaluation_of_mapped_images(mapped):
    file = mapped(numbered(7))
    batches = data.evaluation_batches(file, 3)
    assert numbers(batches) == [[0, 1, 2], [3, 4, 5], [6]]
    assert batches.cardinality() == 3
    assert batches.element_spec == tf.TensorSpec([None, 2, 2, 1], tf.uint8)


@pytest.mark.parametrize(("n", "batch_size"), [(7, 3), (6, 3), (2, 5), (3, 1)])
def test_evaluation_sees_every_image_once_and_in_order(n, batch_size):
    batches = data.evaluation_batches(numbered(n), batch_size)
    order = numbers(batches)
    assert list(itertools.chain(*order)) == list(range(n))
    assert [len(batch) for batch in order[:-1]] == [batch_size] * (len(order) - 1)
    assert batches.cardinality() == len(order)
    assert batches.element_spec == tf.TensorSpec([None, 2, 2, 1], tf.uint8)


def test_nothing_waits_for_a_tuner():
    """Whose thread can sleep for a minute when its iterator is to go."""
    for batches in (
        data.training_batches(numbered(7), 3, seed=0),
        data.evaluation_batches(numbered(7), 3),
    ):
        assert batches.options().autotune.enabled is False


# Several workers.

_WORKER = """
import json
import sys
import numpy as np
import tensorflow as tf
from aef_tfp import data

strategy = tf.distribute.MultiWorkerMirroredStrategy()
assert strategy.num_replicas_in_sync == 2
file = np.load(sys.argv[1], mmap_mode="r")
images = np.array(file)
for batches in [
    data.training_batches(images, 12, seed=3, start_step=2, flips=True).take(10),
    data.training_batches(file, 10, seed=3).take(10),
    data.evaluation_batches(images, 12),
    data.evaluation_batches(file, 12),
]:
    parts = []
    for batch in strategy.experimental_distribute_dataset(batches):
        (part,) = strategy.experimental_local_results(batch)
        parts.append(part.numpy().ravel().tolist())
    print(json.dumps(parts))
"""


def test_two_workers_share_every_batch(tmp_path):
    # The second column tells an image from its mirror image.
    images = np.concatenate([numbered(50, (1, 1, 1)), numbered(50, (1, 1, 1)) + 50], 2)
    np.save(tmp_path / "images.npy", images)
    with socket.socket() as one, socket.socket() as two:
        one.bind(("localhost", 0))
        two.bind(("localhost", 0))
        cluster = {"worker": [f"localhost:{s.getsockname()[1]}" for s in (one, two)]}
    workers = []
    for index in range(2):
        config = {"cluster": cluster, "task": {"type": "worker", "index": index}}
        workers.append(
            subprocess.Popen(
                [sys.executable, "-c", _WORKER, str(tmp_path / "images.npy")],
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

    flipped = data.training_batches(images, 12, seed=3, start_step=2, flips=True)
    plain = data.training_batches(images, 10, seed=3)
    evaluation = data.evaluation_batches(images, 12)
    expected = [flipped.take(10), plain.take(10), evaluation, evaluation]
    assert len(first) == len(expected)
    for index, batches in enumerate(expected):
        whole = [batch.ravel().tolist() for batch in batches.as_numpy_iterator()]
        parts = list(zip(first[index], second[index], strict=True))
        assert [one + two for one, two in parts] == whole
        # All but the last batch for evaluation, of two images, are cut in half.
        assert all(len(one) == len(two) for one, two in parts[:4])
    # Two epochs of five batches: in each, every image is one worker's.
    for epoch in (slice(0, 5), slice(5, 10)):
        one, two = ({v for b in part[1][epoch] for v in b} for part in (first, second))
        assert len(one) == len(two) == 50
        assert not one & two
