"""Data whose density has no bound are found, and nothing else is taken for such."""

import numpy as np
import pytest

from aef_tfp.models.units import (
    boundary_share,
    constant_columns,
    few_values,
    lattice_of,
    unbounded_columns,
)

IMAGES = np.random.default_rng(0).integers(0, 256, (16, 12, 12, 3))
DIGITS = np.random.default_rng(0).integers(0, 17, (16, 8, 8, 1))
UNIFORM = np.random.default_rng(1).uniform(size=(16, 12, 12, 3))


@pytest.mark.parametrize(
    ("x", "count", "offset"),
    [
        (IMAGES / 255, 255, 0.0),
        (IMAGES / 256, 256, 0.0),
        ((IMAGES + 0.5) / 256, 256, 0.5),
        (np.minimum(IMAGES, 254) / 254, 254, 0.0),
        (257 * IMAGES[:1] / 65535, 255, 0.0),  # files of 16 bits made from 8
        (np.random.default_rng(0).integers(0, 65536, (4, 12, 12)) / 65535, 65535, 0.0),
        (np.random.default_rng(0).integers(0, 4096, (4, 12, 12)) / 4095, 4095, 0.0),
        (DIGITS / 16, 16, 0.0),
        (DIGITS / 17, 17, 0.0),
        (IMAGES.reshape(16, 6, 2, 6, 2, 3).mean((2, 4)) / 255, 1020, 0.0),  # resized
        (np.random.default_rng(0).integers(0, 31235, (16, 24, 24)) / 31234, 31234, 0.0),
        (0.0371 * IMAGES / 255, 255 / 0.0371, 0.0),
        (DIGITS / 20, 20, 0.0),  # found from the spacing alone
        (0.1 + 0.8 * DIGITS / 16, 20, 0.0),
        (IMAGES > 100.0, 1, 0.0),
        ((IMAGES[:1, :2, :2] / 255), 255, 0.0),  # of few values neighbours are missing
    ],
)
def test_lattices_are_found(x, count, offset):
    found = lattice_of(np.asarray(x, np.float32), 17)
    assert found is not None
    assert found.per_unit == pytest.approx(count, rel=1e-3)
    assert found.offset == pytest.approx(offset, abs=1e-3)


@pytest.mark.parametrize(
    "x",
    [
        UNIFORM,
        (IMAGES + UNIFORM) / 256,
        (DIGITS + np.random.default_rng(2).uniform(size=DIGITS.shape)) / 17,
        UNIFORM[:1, :2, :2, :1],
        np.repeat(UNIFORM[:1, :4, :4], 50, axis=0),  # one event many times
        np.where(UNIFORM < 0.5, 0.0, UNIFORM),  # a black background
        np.zeros((2, 4, 4, 1)),
        np.full((2, 4, 4, 1), 0.3),
        np.empty((0, 4, 4, 1)),
        np.linspace(0.1, 0.9, 7) ** 2,
    ],
)
def test_continuous_values_are_no_lattice(x):
    assert lattice_of(np.asarray(x, np.float32), 256) is None


def test_blank_events_in_front_hide_no_lattice():
    x = np.zeros((64, 64, 64, 1), np.float32)
    x[10:] = np.random.default_rng(0).integers(0, 256, (54, 64, 64, 1)) / 255
    assert lattice_of(x) == (255.0, 0.0)


@pytest.mark.parametrize(
    ("x", "count"),
    [
        ((IMAGES / 255) ** 2.2, 254),
        (np.sqrt(DIGITS / 16), 15),
        (np.array([0.21, 0.53, 0.77])[DIGITS % 3], 3),
        (UNIFORM, None),
        (np.concatenate([UNIFORM, UNIFORM[:, :, ::-1]]), None),  # flipped
        (np.repeat(UNIFORM[:1], 50, axis=0), None),  # one event many times
        (np.broadcast_to(UNIFORM[:, :1, :1], UNIFORM.shape), None),
        (np.where(UNIFORM < 0.5, 0.0, UNIFORM), None),
        (np.where(UNIFORM < 0.5, 0.3, UNIFORM), None),
        # Windows of a signal, each of which begins a step later.
        (np.lib.stride_tricks.sliding_window_view(UNIFORM.ravel()[:79], 16), None),
        (np.zeros((4, 2)), None),
        (np.zeros((0, 2)), None),
    ],
)
def test_values_that_many_events_share_are_counted(x, count):
    assert few_values(np.float32(x)) == count


def test_pixels_of_one_value_are_named():
    x = UNIFORM.astype("float32")
    assert constant_columns(x) == []
    x[:, 0] = 0.0
    x[:, 5, 5, 0] = 0.3
    assert constant_columns(x) == ["column (5, 5, 0) is constant"]
    assert constant_columns(x[:1]) == []


def test_integers_by_rounding_are_found():
    x = 1e9 + np.random.default_rng(0).normal(0.0, 99.0, (50, 2))
    assert unbounded_columns(x) == []
    assert unbounded_columns(x, "float32") == ["columns 0, 1 are all integers"]


def test_a_lattice_says_what_it_is():
    assert str(lattice_of(np.float32(IMAGES / 255))) == "k / 255"
    assert str(lattice_of(np.float32((IMAGES + 0.5) / 256))) == "(k + 0.5) / 256"


def test_the_share_of_exact_bounds():
    assert boundary_share(np.array([0.0, 0.5, 1.0, 1e-7])) == 0.5
    assert boundary_share(np.zeros((0, 3))) == 0.0


def columns(**changes):
    x = np.random.default_rng(0).normal(size=(200, 5)).astype(np.float32)
    for name, value in changes.items():
        x[:, int(name[1:])] = value(x)
    return unbounded_columns(x)


def test_columns_without_a_bound_are_named():
    assert columns() == []
    assert columns(c3=lambda x: 7.0) == ["column 3 is constant"]
    assert columns(c1=lambda x: np.rint(9 * x[:, 1])) == ["column 1 is all integers"]
    # After any affine function, and of which one value is most of all.
    few = ["column 1 is made of few values, like integers that were scaled"]
    assert columns(c1=lambda x: np.rint(9 * x[:, 1]) / 7 - 1) == few
    assert columns(c1=lambda x: np.maximum(x[:, 1] - 0.5, 0.0)) == few
    [copy] = columns(c4=lambda x: 2 * x[:, 0] + 1)
    assert copy.startswith("columns 0, 4 are a copy of others")
    [total] = columns(c2=lambda x: x[:, 0] + x[:, 1])
    assert total.startswith("columns 0, 1, 2 are a copy")
    # Nearly: what is left is data.
    noise = np.random.default_rng(1).normal(size=200)
    assert columns(c4=lambda x: x[:, 0] + 1e-3 * noise) == []


def test_rows_that_come_again_make_no_columns_of_few_values():
    x = np.random.default_rng(0).normal(size=(60, 5))
    assert unbounded_columns(np.repeat(x, 4, axis=0)) == []


def test_few_rows_tell_copies_only():
    x = np.random.default_rng(0).normal(size=(4, 9))
    assert unbounded_columns(x) == []
    x[:, 5] = x[:, 2]
    [phrase] = unbounded_columns(x)
    assert phrase.startswith("column 5 is a copy")
    assert unbounded_columns(x[:1]) == []


def test_many_columns_are_counted_and_pixels_named_by_their_place():
    x = np.random.default_rng(0).normal(size=(9, 20))
    x[:, 4:16] = 0.0
    assert unbounded_columns(x) == ["columns 4, 5, 6, 7, 8 and 7 more are constant"]
    x = np.random.default_rng(0).normal(size=(9, 2, 2, 1))
    x[:, 1, 0] = 0.5
    assert unbounded_columns(x) == ["column (1, 0, 0) is constant"]
