"""Images of one's own, in folders and NumPy files, and CelebA-HQ's files."""

import contextlib
import dataclasses
import itertools
import json
import math
import os
import re
import shutil
import time
import warnings
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from aef_tfp import data
from aef_tfp.callbacks import Duration, duration
from aef_tfp.data import celeba_hq, finding, folder, image_files
from aef_tfp.data.image_files import EXTENSIONS, read_header, read_image
from aef_tfp.data.npz_names import NAMES, split_names
from aef_tfp.data.splits import SPLITS, drawn_sizes
from aef_tfp.networks.residual import residual_stages
from aef_tfp.runs.config import CHOSEN, RunConfig, RunSettings
from aef_tfp.runs.defaults import choose
from aef_tfp.runs.evaluation import evaluate_run, load_run_splits, tune
from aef_tfp.runs.presets import PRESETS, get_preset


def one_line(message):
    return "^" + re.escape(message) + "$"


def all_images(splits):
    return [splits.train.images, splits.validation.images, splits.test.images]


def picture(rng, width, height, mode="RGB"):
    """A smooth picture in which red grows to the right and green downwards."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    pixels = np.stack([x, y, np.full_like(x, rng.integers(256))], -1)
    return Image.fromarray(pixels.astype(np.uint8)).convert(mode)


def plain(value, size=(8, 8)):
    """A picture of one colour or grey value."""
    mode = "L" if isinstance(value, int) else "RGB"
    return Image.new(mode, size, value)


def numbered_folder(path, n=20):
    """Grey images whose value is their number, in two levels of folders."""
    for index in range(n):
        file = path / ("even" if index % 2 == 0 else "odd/deep") / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        plain(index).save(file)
    return path


# 500 mixed files.


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """500 PNG and JPEG files of several sizes and modes, of which two are bad."""
    path = tmp_path_factory.mktemp("mixed")
    rng = np.random.default_rng(0)
    sizes = [(22, 22), (40, 30), (30, 41), (64, 64), (90, 35)]
    kinds = [
        ("RGB", "png"),
        ("RGB", "jpg"),
        ("L", "png"),
        ("L", "JPEG"),
        ("RGBA", "png"),
        ("P", "png"),
        ("CMYK", "jpg"),
        ("LA", "PNG"),
        ("1", "png"),
    ]
    for index in range(500):
        mode, ending = kinds[index % len(kinds)]
        image = picture(rng, *sizes[index % len(sizes)], mode)
        image.save(path / f"{index:03}.{ending}")
    (path / "100.jpg").write_bytes((path / "100.jpg").read_bytes()[:-100])
    (path / "200.png").write_text("This is no image.\n")
    (path / "readme.txt").write_text("Nor is this.\n")
    (path / ".hidden.png").write_text("Nor this.\n")
    assert len([p for p in path.iterdir() if p.name[0].isdigit()]) == 500
    return path


_BAD = "'100.jpg' (image file is truncated {}), '200.png' (no image of a known format)"


def test_bad_files_are_named_together(mixed):
    message = (
        f"2 of 500 image files are unreadable in '{mixed}': {_BAD}: repair or remove"
        " them, or pass --skip-unreadable (skip_unreadable=True)"
    )
    pattern = one_line(message).replace(re.escape("{}"), r"\([^()]*\)")
    with pytest.raises(ValueError, match=pattern):
        data.load_splits("folder", mixed)


def test_mixed_files_become_equal_images(mixed):
    splits = data.load_splits("folder", mixed, skip_unreadable=True)
    assert [len(i) for i in all_images(splits)] == [398, 50, 50]
    for images in all_images(splits):
        assert images.dtype == np.uint8
        assert images.shape[1:] == (20, 20, 3)
    size, left_out, skipped, drawn = splits.notes
    assert left_out == (
        "left out 1 .txt, 1 hidden .png: to have pictures among them, convert them to"
        " .png"
    )
    assert size == (
        "499 image files, 22 to 90 pixels wide and 22 to 64 high, become 20 x 20 (no"
        " larger than the smallest side of all, 22, or than 64, and a side that every"
        " network takes; --image-size sets another) with 3 channels"
    )
    pattern = re.escape(
        f"2 of 500 image files are unreadable and were skipped: {_BAD}"
    ).replace(re.escape("{}"), r"\([^()]*\)")
    assert re.fullmatch(pattern, skipped)
    assert (
        drawn == "splits drawn by seed 3: 398 training, 50 validation, 50 test images"
    )
    info = splits.info
    assert (info.name, info.image_shape, info.logit_lambda) == (
        "folder",
        (20, 20, 3),
        0.05,
    )
    # All modes: right is redder (or, of grey ones, lighter) than left.
    images = np.concatenate(all_images(splits)).astype(float)
    red = images[:, :, :, 0].mean(axis=1)
    assert np.all(red[:, -4:].mean(axis=1) > red[:, :4].mean(axis=1) + 20)


def test_mixed_files_train(mixed):
    import keras

    from aef_tfp import ExpandedAEF

    splits = data.load_splits("folder", mixed, image_size=8, skip_unreadable=True)
    assert splits.train.images.shape == (398, 8, 8, 3)
    model = ExpandedAEF(
        splits.info.image_shape,
        4,
        encoder="dense",
        decoder="dense",
        core_flow="none",
        prior_flow="none",
        num_levels=splits.info.num_levels,
        logit_lambda=splits.info.logit_lambda,
    )
    model.compile(keras.optimizers.Adam(1e-3))
    history = model.fit(
        data.training_batches(splits.train.images, 32, seed=1, flips=True),
        steps_per_epoch=10,
        epochs=3,
        validation_data=data.evaluation_batches(splits.validation.images, 32),
        verbose=0,
    )
    losses = history.history["val_loss"]
    assert np.all(np.isfinite(losses))
    assert losses[-1] < losses[0]


@pytest.mark.filterwarnings("ignore:val_loss is")  # of a few random steps
def test_mixed_files_become_a_run(mixed, tmp_path, capsys):
    from aef_tfp.runs.commands import train as run

    run_dir = tmp_path / "run"
    options = ["--networks=dense", "--image-size=8", "--iterations=2"]
    options += ["--steps-per-execution=1", "--no-jit-compile", "--batch-size=64"]
    argv = ["folder-autoencoder-2", *options, f"--data-dir={mixed}"]
    assert run.main([*argv, f"--run-dir={run_dir}"]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: 2 of 500 image files are unreadable")
    assert printed.count("\n") == 1
    assert not run_dir.exists()
    assert run.main([*argv, f"--run-dir={run_dir}", "--skip-unreadable"]) == 0
    printed = capsys.readouterr().out
    assert "become 8 x 8" in printed
    assert "'100.jpg' (image file is truncated" in printed
    assert "2: 2 iterations, the rest is chosen from your images. Run" in printed
    assert "chosen for 398 training images of 8 x 8 x 3" in printed
    assert "--batch-size" not in printed
    # Of two steps the first compiles.
    assert re.search(
        r"about \S+ s per iteration: first validation in .* 2 iter", printed
    )
    config = RunConfig.from_run(run_dir)
    assert (config.image_size, config.batch_size) == (8, 64)
    assert (config.iterations, config.validation_interval) == (2, 2)
    facts = json.loads((run_dir / "data.json").read_text())
    assert facts["image_shape"] == [8, 8, 3]
    assert facts["num_images"] == {"train": 398, "validation": 50, "test": 50}
    assert (run_dir / "reconstructions.png").is_file()
    # It goes on with the numbers that were chosen for it, and chooses none.
    argv = [f"--resume={run_dir}", f"--data-dir={mixed}", "--iterations=4"]
    assert run.main(argv) == 0
    printed = capsys.readouterr().out
    assert "2: 4 iterations, an epoch below is 2 of them" in printed
    assert "chosen" not in printed
    assert "next validation in" in printed
    resumed = RunConfig.from_run(run_dir)
    assert resumed == dataclasses.replace(config, iterations=4)
    assert run.main([f"--resume={run_dir}", "--log-interval=7"]) == 1
    assert f"({config.log_interval} -> 7) would change" in capsys.readouterr().err


def test_splits_are_the_same_in_any_file_system(mixed, tmp_path, monkeypatch):
    one = data.load_splits("folder", mixed, skip_unreadable=True)
    # Written in another order, without the bad ones, and listed backwards.
    for file in sorted(mixed.iterdir(), reverse=True):
        if file.name not in ("100.jpg", "200.png"):
            shutil.copy(file, tmp_path / file.name)
    original = os.scandir

    @contextlib.contextmanager
    def backwards(path):
        with original(path) as entries:
            yield reversed(sorted(entries, key=lambda entry: entry.name))

    monkeypatch.setattr(finding.os, "scandir", backwards)
    two = data.load_splits("folder", tmp_path)
    for images, others in zip(all_images(one), all_images(two), strict=True):
        np.testing.assert_array_equal(images, others)


def test_too_large_for_memory_they_are_the_same(mixed, tmp_path, monkeypatch):
    arguments = {"image_size": 8, "skip_unreadable": True, "cache_dir": tmp_path}
    one = data.load_splits("folder", mixed, **arguments)
    assert list(tmp_path.iterdir()) == []
    two = data.load_splits("folder", mixed, memory_limit=1000, **arguments)
    (entry,) = tmp_path.iterdir()
    note = (
        "folder: 95.8 kB of decoded images exceed the memory limit of 1.0 kB: {} "
        f"{entry}, which may be deleted"
    )
    assert two.notes == (*one.notes, note.format("cached in"))
    monkeypatch.setattr(folder, "read_image", pytest.fail)
    three = data.load_splits("folder", mixed, memory_limit=1000, **arguments)
    assert three.notes == (*one.notes, note.format("read from the cache"))
    for images, others, again in zip(*map(all_images, (one, two, three)), strict=True):
        assert isinstance(others, np.memmap)
        assert isinstance(again, np.memmap)
        np.testing.assert_array_equal(images, others)
        np.testing.assert_array_equal(images, again)


def test_a_changed_folder_is_decoded_again(tmp_path):
    path = numbered_folder(tmp_path / "images")
    arguments = {"memory_limit": 0, "cache_dir": tmp_path / "cache"}
    data.load_splits("folder", path, **arguments)
    plain(99).save(path / "even" / "0.png", compress_level=0)
    splits = data.load_splits("folder", path, **arguments)
    values = np.concatenate([i[:, 0, 0, 0] for i in all_images(splits)])
    assert sorted(values) == [*range(1, 20), 99]
    # Neither another seed nor the permission to skip is served from there.
    data.load_splits("folder", path, seed=4, **arguments)
    (path / "bad.png").touch()
    data.load_splits("folder", path, skip_unreadable=True, **arguments)
    with pytest.raises(ValueError, match=r"'bad\.png' \(no image of a known format\)"):
        data.load_splits("folder", path, **arguments)
    assert len(list((tmp_path / "cache").iterdir())) == 4


# What the images choose.


def own(preset="folder-aef-linear-64", **asked):
    return dataclasses.replace(get_preset(preset), **asked)


@pytest.mark.parametrize(
    ("asked", "num_images", "shape", "expected"),
    [
        # Networks, step size, batch, iterations, epoch, patience.
        (own(), 320, (64, 64, 3), ("conv", 1e-3, 32, 3000, 100, 600)),
        (own(), 32_000, (64, 64, 3), ("conv", 1e-3, 64, 100_000, 200, 20_000)),
        (own(), 32_000, (32, 32, 3), ("conv", 1e-3, 64, 100_000, 500, 20_000)),
        (own(), 5000, (32, 32, 3), ("conv", 1e-3, 64, 23_500, 100, 4700)),
        # As MNIST's own preset.
        (
            own("npz-aef-linear-32"),
            54_000,
            (28, 28, 1),
            ("conv", 1e-3, 128, 100_000, 500, 20_000),
        ),
        (own(), 4, (64, 64, 3), ("conv", 1e-3, 4, 300, 20, 100)),
        (own(), 1, (8, 8, 1), ("conv", 1e-3, 1, 300, 20, 100)),
        (own(), 16, (64, 64, 3), ("conv", 1e-3, 8, 600, 50, 250)),
        (
            own(networks="residual"),
            320,
            (64, 64, 3),
            ("residual", 1e-4, 16, 6000, 50, 1200),
        ),
        # Validation on 4,000 images would take as long as 50 such steps.
        (
            own(networks="residual"),
            32_000,
            (64, 64, 3),
            ("residual", 1e-4, 16, 100_000, 200, 20_000),
        ),
        (
            own(networks="residual"),
            32_000,
            (32, 32, 3),
            ("residual", 1e-4, 64, 100_000, 50, 20_000),
        ),
        # Slower models.
        (
            own("folder-iwae-32"),
            32_000,
            (64, 64, 3),
            ("conv", 1e-3, 64, 100_000, 50, 20_000),
        ),
        (
            own("folder-pixel-maf-8x512"),
            32_000,
            (64, 64, 3),
            ("conv", 1e-3, 64, 100_000, 50, 20_000),
        ),
        (own(), 320, (50, 50, 3), ("dense", 1e-3, 32, 3000, 100, 600)),
        (own(), 320, (14, 14, 1), ("residual", 1e-4, 32, 3000, 100, 600)),
        (own("npz-vae-2"), 320, (1, 1, 1), ("dense", 1e-3, 32, 3000, 100, 600)),
        (
            own("npz-vae-8"),
            320,
            (14, 20, 1),
            ("dense", 1e-3, 32, 3000, 100, 600),
        ),
        (own(width=8), 320, (64, 64, 3), ("residual", 1e-4, 16, 6000, 50, 1200)),
        # What is chosen fits what is asked.
        (
            own(iterations=20, batch_size=8),
            320,
            (64, 64, 3),
            ("conv", 1e-3, 8, 20, 20, 100),
        ),
        (
            own(validation_interval=70, learning_rate=0.5),
            320,
            (64, 64, 3),
            ("conv", 0.5, 32, 3010, 70, 602),
        ),
    ],
)
def test_the_images_choose_the_settings(asked, num_images, shape, expected):
    asked.check()
    config, notes = choose(asked, num_images, shape)
    config.check()
    got = (
        config.networks,
        config.learning_rate,
        config.batch_size,
        config.iterations,
        config.validation_interval,
        config.patience,
    )
    assert got == expected
    # What is asked stays, and nobody says that it was chosen.
    for field in dataclasses.fields(asked):
        value = getattr(asked, field.name)
        option = f"--{field.name.replace('_', '-')} "
        named = [note for note in notes if note.strip().startswith(option)]
        if value is not None:
            assert getattr(config, field.name) == value
            assert not named
        elif field.name == "networks" and asked.model == "pixel-maf":
            assert not named
        elif field.name in CHOSEN and field.name != "log_interval":
            (note,) = named
            assert note.split()[1] == str(getattr(config, field.name))
    assert all(len(note) <= 80 for note in notes)
    # A run ends with a whole epoch, and its curves have points in each.
    if asked.iterations is None:
        assert config.iterations % config.validation_interval == 0
    together = math.gcd(config.validation_interval, config.steps_per_execution)
    if asked.log_interval is None:
        assert config.log_interval % together == 0
    assert 5 * max(config.log_interval - together, 1) <= config.validation_interval
    assert config.picture_interval >= config.validation_interval
    # The same again chooses nothing.
    assert choose(config, num_images, shape) == (config, ())


def test_one_validation_image_is_enough_to_tune_on():
    from aef_tfp import VAE

    model = VAE((2, 2, 1), 1, encoder="dense", decoder="dense", prior_flow="none")
    image = data.Split(np.zeros((1, 2, 2, 1), np.uint8))
    splits = data.Splits(image, image, image, data.dataset_info("npz"))
    assert tune(model, splits, num_samples=2, verbose=0)
    assert model.proposal_scales["encoder"] > 0


def test_a_run_says_what_it_does_without():
    from aef_tfp.runs.training import _left_out

    one, two = (data.Split(np.zeros((n, 2, 2, 1), np.uint8)) for n in (1, 2))
    config = RunConfig(dataset="npz")
    few = data.Splits(two, one, two, data.dataset_info("npz"))
    note = "one validation image: TensorBoard shows no interpolations"
    assert _left_out(config, few) == [note]
    assert _left_out(config, dataclasses.replace(few, validation=two)) == []
    maf = dataclasses.replace(config, model="pixel-maf")
    assert _left_out(maf, few) == []


def test_a_thin_residual_network_is_nobodys_choice():
    asked = own("npz-vae-2")
    assert choose(asked, 320, (14, 14, 1))[0].width == 32
    asked = own("npz-vae-2", networks="residual")
    assert choose(asked, 320, (14, 14, 1))[0].width is None
    asked = own("npz-vae-64")
    assert choose(asked, 320, (14, 14, 1))[0].width is None


def test_a_run_keeps_the_side_that_was_found():
    config, notes = choose(own(), 320, (64, 64, 3))
    assert config.image_size == 64
    assert "  --image-size 64            32 would be about 4 times as fast" in notes
    _, notes = choose(own(), 320, (32, 32, 3))
    assert "--image-size" not in "".join(notes)
    assert choose(own("npz-vae-2"), 320, (64, 64, 3))[0].image_size is None


def test_the_networks_chosen_take_the_images():
    for side in range(1, 200):
        config, _ = choose(own(), 100, (side, side, 1))
        try:
            residual_stages(side)
        except ValueError:
            takes = "conv" if side % 4 == 0 else "dense"
        else:
            takes = "conv" if side % 4 == 0 else "residual"
        assert config.networks == takes, side
    # And all of them the side that is inferred.
    for side in folder._SIDES:
        assert side % 4 == 0
        assert residual_stages(side)


def test_only_presets_of_ones_own_images_leave_a_choice():
    for name, config in PRESETS.items():
        left = {field for field in CHOSEN if getattr(config, field) is None}
        is_own = name.startswith(("folder-", "npz-"))
        assert left == (set(CHOSEN) if is_own else set()), name
        assert isinstance(config, RunConfig) != is_own
        config.check()
    mnist = get_preset("mnist-vae-32")
    assert choose(mnist, 3, (28, 28, 1)) == (mnist, ())


def test_what_is_left_to_choose_is_no_configuration():
    message = (
        "log_interval, patience of the data set 'npz' are chosen from its images: pass"
        " them, or use defaults.choose."
    )
    numbers = dict.fromkeys(CHOSEN, 1) | {"networks": "conv"}
    del numbers["log_interval"], numbers["patience"]
    with pytest.raises(ValueError, match=one_line(message)):
        RunConfig.of(RunSettings(dataset="npz"), **numbers)


@pytest.mark.parametrize("name", sorted(set(CHOSEN) - {"networks"}))
def test_a_choice_of_the_users_is_checked(name):
    with pytest.raises(ValueError, match=rf"^{name} must be .*, got -1\.$"):
        own(**{name: -1}).check()


class Clock:
    """Plays the executions of `fit` for a callback, each of some seconds."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(duration.time, "perf_counter", lambda: self.now)

    def fit(self, callback, epochs, interval, per_execution, seconds, start=0):
        """The executions take `seconds` in turn; each validation takes 1,000."""
        callback.on_train_begin()
        for epoch in epochs:
            callback.on_epoch_begin(epoch)
            for end in range(per_execution, interval - start + 1, per_execution):
                callback.on_train_batch_begin(end - per_execution)
                self.now += next(seconds)
                callback.on_train_batch_end(end - 1)
            start = 0
            self.now += 1000.0


@pytest.mark.parametrize(
    ("done", "per_execution", "seconds", "line"),
    [
        # The one that compiles is left out: three of 10 steps in 2, 3 and 4 seconds.
        (
            0,
            10,
            [60, 2, 3, 4, 1e9],
            "about 0.3 s per iteration: first validation in about 18 s, all 3,000"
            " iterations in about 15 min without validations",
        ),
        # Slow ones are not waited for.
        (
            0,
            10,
            [60, 20, 1e9],
            "about 2 s per iteration: first validation in about 2.7 min, all 3,000"
            " iterations in about 1.7 h without validations",
        ),
        # One in an epoch, which compiles; so it is the next epoch, after a validation.
        (
            0,
            100,
            [60, 5, 1e9],
            "about 0.05 s per iteration: next validation in about 1 s, all 3,000"
            " iterations in about 2.3 min without validations",
        ),
        (
            2940,
            10,
            [60, 2, 2, 2, 1e9],
            "about 0.2 s per iteration: next validation in about 4 s, the remaining 60"
            " iterations in about 4 s without validations",
        ),
    ],
)
@pytest.mark.parametrize("verbose", [0, 1, 2])
def test_a_run_says_once_how_long_it_takes(
    done, per_execution, seconds, line, verbose, monkeypatch, capsys
):
    callback = Duration(lambda epoch: 100 * (epoch + 1), done, 3000, verbose)
    ticks = itertools.chain(seconds, itertools.repeat(1.0))
    start, first = done % 100, done // 100
    epochs = range(first, first + 3)
    Clock(monkeypatch).fit(callback, epochs, 100, per_execution, ticks, start)
    printed = capsys.readouterr().out
    # Below the progress bar of the epoch.
    assert printed == {0: "", 1: f"\n{line}\n", 2: f"{line}\n"}[verbose]


def test_each_fit_compiles_anew(monkeypatch, capsys):
    callback = Duration(lambda epoch: 100 * (epoch + 1), 90, 200, 2)
    clock = Clock(monkeypatch)
    clock.fit(callback, [0], 100, 10, iter([60.0]), start=90)
    assert capsys.readouterr().out == ""
    clock.fit(callback, [1], 100, 10, iter([60.0, *[1.0] * 9]))
    assert capsys.readouterr().out.startswith("about 0.1 s per iteration: next")


# What the seed draws.


def test_every_file_is_in_one_split_that_the_seed_draws(tmp_path):
    path = numbered_folder(tmp_path, 40)
    drawn = {}
    for seed in range(5):
        splits = data.load_splits("folder", path, seed=seed)
        assert splits.info.image_shape == (8, 8, 1)
        assert splits.info.logit_lambda == 1e-6
        order = [i[:, 0, 0, 0].tolist() for i in all_images(splits)]
        assert [len(part) for part in order] == [32, 4, 4]
        assert sorted(itertools.chain(*order)) == list(range(40))
        drawn[seed] = order
    tests = {tuple(sorted(order[2])) for order in drawn.values()}
    assert len(tests) == 5
    # The same with every version: a resumed run must not train on its test images.
    assert drawn[0][2] == [16, 18, 13, 11]


def test_accents_are_the_same_in_any_file_system():
    composed = [f"caf\u00e9 {i}.png" for i in range(9)]
    apart = [f"cafe\u0301 {i}.png" for i in range(9)]
    drawn = folder._drawn_order(composed, 1)
    assert drawn != composed
    decomposed = folder._drawn_order(apart, 1)
    assert [name[-5] for name in decomposed] == [name[-5] for name in drawn]


@pytest.mark.parametrize(
    ("n", "sizes"),
    [(4, (1, 1, 2)), (9, (6, 1, 2)), (15, (11, 2, 2)), (100, (80, 10, 10))],
)
def test_sizes_of_splits(n, sizes):
    drawn = drawn_sizes({"train": n}, {"train": "here"})
    assert tuple(drawn[split] for split in SPLITS) == sizes


# Sizes and channels.


def test_the_inferred_size_has_limits(tmp_path):
    for index in range(4):
        plain(index, (300, 200)).save(tmp_path / f"{index}.png")
    assert data.load_splits("folder", tmp_path).info.image_shape == (64, 64, 1)
    splits = data.load_splits("folder", tmp_path, image_size=66)
    assert splits.info.image_shape == (66, 66, 1)
    assert splits.notes[0] == (
        "4 image files, 300 to 300 pixels wide and 200 to 200 high, become 66 x 66 with"
        " 1 channel"
    )
    plain(9, (80, 3)).save(tmp_path / "small.png")
    message = (
        "the smallest image has a side of 3 pixels: pass --image-size (image_size=...),"
        " at least 4"
    )
    with pytest.raises(ValueError, match=one_line(message)):
        data.load_splits("folder", tmp_path)
    splits = data.load_splits("folder", tmp_path, image_size=8)
    assert splits.notes[0].endswith("become 8 x 8 (1 of them enlarged) with 1 channel")


def test_channels_are_those_of_the_images(tmp_path):
    numbered_folder(tmp_path)
    message = (
        "channels is 3, but all 20 images are grey: pass --channels 1 (channels=1) or"
        " leave it out"
    )
    with pytest.raises(ValueError, match=one_line(message)):
        data.load_splits("folder", tmp_path, channels=3)
    plain((200, 10, 30)).save(tmp_path / "colour.png")
    assert data.load_splits("folder", tmp_path).info.image_shape == (8, 8, 3)
    assert data.load_splits("folder", tmp_path, channels=3).train.images.shape[3] == 3
    grey = data.load_splits("folder", tmp_path, channels=1)
    assert grey.info.image_shape == (8, 8, 1)
    assert grey.info.logit_lambda == 1e-6
    assert max(i.max() for i in all_images(grey)) == round(
        0.299 * 200 + 0.587 * 10 + 0.114 * 30
    )


def test_folders_without_images(tmp_path):
    message = (
        "there are no images in '{}'{}: pass a folder with files that end in"
        f" {', '.join(EXTENSIONS)}"
    )
    with pytest.raises(FileNotFoundError, match=one_line(message.format(tmp_path, ""))):
        data.load_splits("folder", tmp_path)
    for name, found in [
        ("b.txt", ", but 1 .txt"),
        ("a.heic", ", but 1 .heic, 1 .txt"),
    ]:
        (tmp_path / name).touch()
        with pytest.raises(
            FileNotFoundError, match=one_line(message.format(tmp_path, found))
        ):
            data.load_splits("folder", tmp_path)
    message = (
        f"'{tmp_path}/b.txt' is a file, not a folder: pass the folder of your image"
        " files with --data-dir (data_dir=...)"
    )
    with pytest.raises(FileNotFoundError, match=one_line(message)):
        data.load_splits("folder", tmp_path / "b.txt")
    none = tmp_path / "none"
    message = (
        f"there is no folder '{none}': pass the folder of your image files with"
        " --data-dir (data_dir=...)"
    )
    with pytest.raises(FileNotFoundError, match=one_line(message)):
        data.load_splits("folder", none)
    message = (
        "data set 'folder' needs a place: pass your folder of images with --data-dir"
        " (data_dir=...)"
    )
    with pytest.raises(ValueError, match=one_line(message)):
        data.load_splits("folder")


def test_folders_with_too_few_readable_images(tmp_path):
    few = (
        f"'{tmp_path}' holds {{}}: there must be at least 4, one each for training and"
        " validation and 2 for test: add more"
    )
    for index in range(3):
        plain(index).save(tmp_path / f"{index}.png")
        found = few.format(
            ["1 readable image", "2 readable images", "3 readable images"][index]
        )
        with pytest.raises(ValueError, match=one_line(found)):
            data.load_splits("folder", tmp_path)
    (tmp_path / "2.png").write_bytes(b"")
    found = few.format("2 readable images")
    with pytest.raises(ValueError, match=one_line(found)):
        data.load_splits("folder", tmp_path, skip_unreadable=True)
    (tmp_path / "0.png").write_bytes(b"")
    (tmp_path / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(
        ValueError,
        match=rf"^none of the 3 image files in '{tmp_path}' is readable: '0\.png'"
        r" \(no image of a known format\), '1\.png' \(.+\), '2\.png' \(.+\)$",
    ):
        data.load_splits("folder", tmp_path, skip_unreadable=True)


def test_files_that_cannot_be_opened_are_unreadable_too(tmp_path):
    numbered_folder(tmp_path)
    (tmp_path / "lost.png").symlink_to(tmp_path / "nowhere.png")
    message = (
        f"1 of 21 image files is unreadable in '{tmp_path}': 'lost.png' (No such file"
        " or directory): repair or remove them, or pass --skip-unreadable"
        " (skip_unreadable=True)"
    )
    with pytest.raises(ValueError, match=one_line(message)):
        data.load_splits("folder", tmp_path)
    assert len(data.load_splits("folder", tmp_path, skip_unreadable=True).train) == 16


def test_a_line_break_in_a_name_makes_no_second_line(tmp_path):
    numbered_folder(tmp_path)
    (tmp_path / "two\nlines.png").touch()
    message = r"^1 of 21 .* 'two\\nlines\.png' \(no image of a known format\): repair"
    with pytest.raises(ValueError, match=message):
        data.load_splits("folder", tmp_path)


def test_many_bad_files_are_counted(tmp_path):
    numbered_folder(tmp_path, 4)
    for index in range(15):
        (tmp_path / f"bad{index:02}.png").touch()
    with pytest.raises(
        ValueError, match=r"^15 of 19 .* 'bad09\.png' \([^()]*\), and 5 more:"
    ):
        data.load_splits("folder", tmp_path)


def test_a_format_is_known_by_its_bytes_and_among_a_few(tmp_path):
    numbered_folder(tmp_path)
    plain(7).save(tmp_path / "even" / "0.png", format="webp", lossless=True)
    plain(7).save(tmp_path / "even" / "2.png", format="bmp")
    assert len(data.load_splits("folder", tmp_path).train) == 16
    # Pillow could read this one, but would start Ghostscript for it.
    plain(7).save(tmp_path / "even" / "4.png", format="eps")
    message = (
        r"^1 of 20 image files is unreadable .* 'even/4\.png' \(no image of a known"
    )
    with pytest.raises(ValueError, match=message):
        data.load_splits("folder", tmp_path)


# One image file.


def read(tmp_path, image, name="image.png", shape=(6, 4, 3), **options):
    image.save(tmp_path / name, **options)
    return read_image(tmp_path / name, *shape)


def test_an_image_of_the_wanted_size_is_not_touched(tmp_path, rng):
    pixels = rng.integers(0, 256, [6, 4, 3], np.uint8)
    for name in ("a.png", "a.bmp"):
        found = read(tmp_path, Image.fromarray(pixels), name)
        np.testing.assert_array_equal(found, pixels)


def test_the_central_part_is_taken(tmp_path):
    pixels = np.zeros([8, 20, 3], np.uint8)
    pixels[:, 6:14] = 255  # what a square takes
    found = read(tmp_path, Image.fromarray(pixels), shape=(8, 8, 3))
    assert np.all(found == 255)
    found = read(tmp_path, Image.fromarray(pixels.transpose(1, 0, 2)), shape=(4, 4, 3))
    assert np.all(found == 255)


def test_resizing_is_antialiased(tmp_path):
    lines = np.tile(np.array([0, 255], np.uint8), [64, 32])
    found = read(tmp_path, Image.fromarray(lines), shape=(16, 16, 1)).astype(int)
    # Between the borders every second line taken would be black, or white.
    assert np.all(np.abs(found[:, 1:-1] - 127.5) < 3)


def test_transparency_is_white(tmp_path):
    red = Image.new("RGBA", (4, 6), (255, 0, 0, 0))
    red.paste((255, 0, 0, 255), (0, 0, 4, 2))
    red.paste((0, 0, 0, 51), (0, 4, 4, 6))
    found = read(tmp_path, red)
    np.testing.assert_array_equal(found[:2], np.tile(np.uint8([255, 0, 0]), [2, 4, 1]))
    np.testing.assert_array_equal(found[2:4], np.full([2, 4, 3], 255))
    np.testing.assert_array_equal(found[4:], np.full([2, 4, 3], 204))
    grey = Image.new("LA", (4, 6), (10, 0))
    np.testing.assert_array_equal(read(tmp_path, grey, shape=(6, 4, 1)), 255)
    # A colour of a palette, or of all, that stands for nothing.
    palette = Image.new("P", (4, 6), 1)
    palette.putpalette([0, 0, 0, 9, 8, 7])
    assert read(tmp_path, palette)[0, 0].tolist() == [9, 8, 7]
    assert read(tmp_path, palette, transparency=1)[0, 0].tolist() == [255] * 3
    found = read(tmp_path, plain((1, 2, 3), (4, 6)), transparency=(1, 2, 3))
    assert found[0, 0].tolist() == [255] * 3
    # Also of 16 bits; whatever the value is, it is none of the image.
    deep = Image.fromarray(np.full([6, 4], 40_000, np.uint16))
    assert read(tmp_path, deep, transparency=40_001)[0, 0].tolist() == [156] * 3
    assert read(tmp_path, deep, transparency=40_000)[0, 0].tolist() == [255] * 3
    assert read_image(tmp_path / "image.png", 6, 4, 1, bit_depth=12).min() == 255


def write_png(file, rows, bits, colour=0, transparent=b""):
    """A PNG file of 8 x 8 pixels, of kinds that Pillow reads but does not write."""
    head = np.array([8, 8], ">u4").tobytes() + bytes([bits, colour, 0, 0, 0])
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    if transparent:
        parts.insert(1, (b"tRNS", transparent))
    chunks = [
        len(body).to_bytes(4, "big")
        + kind
        + body
        + zlib.crc32(kind + body).to_bytes(4, "big")
        for kind, body in parts
    ]
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def test_a_transparent_value_is_that_of_the_pixels(tmp_path):
    file = tmp_path / "a.png"
    # Pillow has the upper 8 of 16 bits in colour, and the value whole.
    pixels = np.zeros([8, 8, 3], ">u2")
    pixels[:4] = 0x1234, 0x5678, 0x9ABC
    write_png(file, pixels, 16, 2, bytes.fromhex("123456789abc"))
    found = read_image(file, 8, 8, 3)
    assert found[:4].min() == 255
    assert found[4:].max() == 0
    # It makes 0, 85, 170, 255 of 2 bits, and leaves the value.
    for value in range(4):
        rows = np.full([8, 2], 0b00011011, np.uint8)
        write_png(file, rows, 2, 0, bytes([0, value]))
        expected = [0, 85, 170, 255] * 2
        expected[value] = expected[value + 4] = 255
        assert read_image(file, 8, 8, 1)[0, :, 0].tolist() == expected


def test_sixteen_bits_become_eight(tmp_path):
    values = np.array([0, 128, 129, 257, 65535 - 129, 65535 - 128], np.uint16)
    pixels = np.tile(values, [6, 1])
    found = read(tmp_path, Image.fromarray(pixels), shape=(6, 6, 1))
    np.testing.assert_array_equal(found[0, :, 0], [0, 0, 1, 1, 254, 255])
    found = read(tmp_path, Image.fromarray(pixels), shape=(6, 6, 3))
    np.testing.assert_array_equal(found[0, :, 2], [0, 0, 1, 1, 254, 255])


def test_cmyk_and_orientation_of_jpeg(tmp_path):
    blue = Image.new("CMYK", (4, 6), (255, 255, 0, 0))
    found = read(tmp_path, blue, "a.jpg", quality=95)
    assert np.abs(found.astype(int) - [0, 0, 255]).max() < 12
    # The camera lay on its side: what is stored left belongs on top.
    pixels = np.zeros([64, 96], np.uint8)
    pixels[:, :48] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(pixels)
    found = read(tmp_path, image, "b.jpg", (12, 8, 1), quality=95, exif=exif)
    assert np.all(found[:5] > 240)
    assert np.all(found[7:] < 15)


@pytest.mark.parametrize(
    "tag",
    [
        b"\x01\x1a\0\x02\0\0\0\x0472\0\0",  # XResolution as text
        b"\x01\0\0\x02\0\0\0\x04abc\0",  # ImageWidth as text
    ],
)
def test_an_odd_tag_keeps_no_image_from_being_set_upright(tmp_path, tag):
    orientation = b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0"
    head = b"Exif\0\0MM\0*\0\0\0\x08\0\x02"
    pixels = np.zeros([64, 96], np.uint8)
    pixels[:, :48] = 255
    exif = head + b"".join(sorted([orientation, tag])) + bytes(4)
    found = read(tmp_path, Image.fromarray(pixels), "a.jpg", (12, 8, 1), exif=exif)
    assert np.all(found[:5] > 240)
    assert np.all(found[7:] < 15)


def test_the_orientation_may_be_in_xmp(tmp_path):
    packet = b'<x:xmpmeta><rdf:Description tiff:Orientation="3"/></x:xmpmeta>'
    pixels = np.zeros([8, 8], np.uint8)
    pixels[:4] = 255
    found = read(tmp_path, Image.fromarray(pixels), "a.jpg", (8, 8, 1), xmp=packet)
    assert found[:4].max() < 15
    assert found[4:].min() > 240


def test_a_large_image_is_no_attack(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    plain(7, (100, 100)).save(tmp_path / "a.png")
    assert read_header(tmp_path / "a.png").width == 100
    assert read_image(tmp_path / "a.png", 4, 4, 1).max() == 7
    assert Image.MAX_IMAGE_PIXELS == 10


def test_large_images_are_decoded_one_at_a_time(tmp_path, monkeypatch):
    working, together = [], []
    original = image_files._upright

    def upright(image):
        working.append(image)
        time.sleep(0.02)
        together.append(len(working))
        working.remove(image)
        return original(image)

    monkeypatch.setattr(image_files, "_upright", upright)
    monkeypatch.setattr(image_files.os, "cpu_count", lambda: 4)
    monkeypatch.setattr(image_files, "_LARGE", 63)
    paths = [tmp_path / f"{index}.png" for index in range(4)]
    for path in paths:
        plain(7).save(path)

    list(image_files.parallel(lambda path: read_image(path, 4, 4, 1), paths))
    assert together == [1] * 4


def test_a_warning_of_pillow_names_the_file(tmp_path):
    # A text that is not there.
    tag = b"\x01\x0f\0\x02\0\0\0\x50\0\0\xff\xff"
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + tag + bytes(4)
    shown = warnings.showwarning
    with pytest.warns(UserWarning, match=r"^'.*/a\.jpg': \w") as warned:
        read(tmp_path, plain(7), "a.jpg", exif=exif)
    assert len(warned) == 1
    assert warnings.showwarning == shown


@pytest.mark.parametrize(("side", "to"), [(1024, 32), (256, 64), (130, 64)])
def test_a_large_jpeg_is_the_same_image(tmp_path, rng, side, to):
    # It is decoded at a fraction of its size, but never at less than what is wanted.
    small = rng.integers(0, 256, [to // 2, to // 2, 3], np.uint8)
    image = Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)
    png = read(tmp_path, image, shape=(to, to, 3)).astype(int)
    jpeg = read(tmp_path, image, "a.jpg", (to, to, 3), quality=95, subsampling=0)
    assert np.abs(png - jpeg).mean() < 2


def test_gif_and_webp(tmp_path):
    frames = [plain((0, 0, 255), (4, 6)), plain((255, 0, 0), (4, 6))]
    found = read(tmp_path, frames[0], "a.gif", save_all=True, append_images=frames[1:])
    assert found[0, 0].tolist() == [0, 0, 255]
    found = read(tmp_path, frames[0], "a.webp", lossless=True)
    assert found[0, 0].tolist() == [0, 0, 255]


def test_further_pictures_of_a_file_are_said_to_be_left_out(tmp_path):
    numbered_folder(tmp_path)
    pages = [plain((value, 0, 0)) for value in (10, 200)]
    more = {"save_all": True, "append_images": pages[1:]}
    for name in ("a.gif", "b.tif", "c.png", "d.webp"):
        pages[0].save(tmp_path / name, **more)
        pages[0].save(tmp_path / f"one-{name}")
    # The gain map of a photograph is no picture of its own, nor is an overview.
    pages[0].save(tmp_path / "e.jpg", "MPO", **more)
    overview = pages[0].resize((2, 2))
    overview.encoderinfo = {"tiffinfo": {254: 1}}
    pages[0].save(tmp_path / "f.tif", save_all=True, append_images=[overview])
    note = "4 files hold several pictures, such as 'a.gif': the first of each is taken"
    assert data.load_splits("folder", tmp_path).notes[1] == note
    for name in ("b.tif", "c.png", "d.webp"):
        (tmp_path / name).unlink()
    note = "1 file holds several pictures, such as 'a.gif': the first of each is taken"
    assert data.load_splits("folder", tmp_path).notes[1] == note


# NumPy files.


def numbered(n, shape=(8, 8)):
    return np.arange(n, dtype=np.uint8).reshape(n, *[1] * len(shape)) * np.ones(
        shape, np.uint8
    )


def small_values(largest):
    return (
        f"the largest value of the training images is {largest}: if a pixel can take"
        " fewer than 256 values, say how many with --num-levels (num_levels=...), else"
        " bits per dimension are wrong"
    )


def test_one_array_is_split_by_the_seed(tmp_path):
    file = tmp_path / "faces.npz"
    np.savez_compressed(file, images=numbered(40), labels=np.arange(40, dtype=np.uint8))
    drawn = []
    for seed in (0, 0, 1):
        splits = data.load_splits("npz", file, seed=seed)
        assert splits.info.image_shape == (8, 8, 1)
        assert splits.info.logit_lambda == 1e-6
        assert splits.notes[:-1] == (
            f"splits drawn by seed {seed}: 32 training, 4 validation, 4 test images",
        )
        for split in (splits.train, splits.validation, splits.test):
            assert split.labels.dtype == np.int64
            np.testing.assert_array_equal(split.images[:, 3, 3, 0], split.labels)
        drawn.append([images[:, 0, 0, 0].tolist() for images in all_images(splits)])
        assert sorted(itertools.chain(*drawn[-1])) == list(range(40))
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]
    assert drawn[0][2] == [29, 33, 15, 31]
    # A folder that holds this file alone.
    (tmp_path / "notes.txt").touch()
    again = data.load_splits("npz", tmp_path, seed=1)
    assert again.train.images[:, 0, 0, 0].tolist() == drawn[2][0]


def test_given_splits_are_taken(tmp_path):
    file = tmp_path / "a.npz"
    arrays = {"train": numbered(20), "test": 100 + numbered(5)}
    np.savez(file, validation=50 + numbered(3), **arrays, test_labels=np.arange(5))
    splits = data.load_splits("npz", file)
    found = [images[:, 0, 0, 0].tolist() for images in all_images(splits)]
    assert found == [list(range(20)), [50, 51, 52], list(range(100, 105))]
    assert splits.notes == (
        f"splits as given in '{file}': 20 training, 3 validation, 5 test images",
        small_values(19),
    )
    assert splits.train.labels is None
    assert splits.test.labels.tolist() == list(range(5))

    np.savez(file, **arrays)
    splits = data.load_splits("npz", file, seed=1)
    train, validation, test = (i[:, 0, 0, 0].tolist() for i in all_images(splits))
    assert sorted(train + validation) == list(range(20))
    assert (len(validation), test) == (2, list(range(100, 105)))
    assert splits.notes == (
        f"splits as given in '{file}', validation drawn from training by seed 1: 18"
        " training, 2 validation, 5 test images",
        small_values(max(train)),
    )


@pytest.mark.parametrize(
    ("form", "validation"),
    [
        ("{}_images", "val"),  # MedMNIST
        ("x_{}", None),  # Keras
        ("X_{}", "valid"),
        ("{}_x", "validation"),
        ("images-{}", "Val"),
        ("{}", "val"),
    ],
)
def test_arrays_are_known_by_the_names_of_others(tmp_path, form, validation):
    file = tmp_path / "a.npz"
    names = {"train": "train", "test": "test"}
    if validation:
        names["validation"] = validation
    label_form = "y_{}" if "x" in form.lower().split("_") else "{}_labels"
    arrays = {}
    for number, name in enumerate(names.values()):
        arrays[form.format(name)] = 50 * number + numbered(20)
        labels = np.arange(50 * number, 50 * number + 20, dtype=np.uint8)
        arrays[label_form.format(name)] = labels[:, None]
    np.savez(file, **arrays)
    splits = data.load_splits("npz", file)
    sizes = [20, 20, 20] if validation else [18, 2, 20]
    assert [len(images) for images in all_images(splits)] == sizes
    assert splits.test.images.min() == 50
    for split in (splits.train, splits.validation, splits.test):
        np.testing.assert_array_equal(split.images[:, 3, 3, 0], split.labels)


def test_an_array_alone_is_the_images(tmp_path):
    file = tmp_path / "a.npz"
    for name in ("arr_0", "faces", "train", "x"):
        np.savez(file, **{name: numbered(10)})
        splits = data.load_splits("npz", file)
        assert [len(images) for images in all_images(splits)] == [7, 1, 2]
    assert split_names(["labels_train", "train"], file).labels == {
        "train": "labels_train"
    }


def test_test_images_are_drawn_if_there_are_none(tmp_path):
    file = tmp_path / "a.npz"
    np.savez(file, train=numbered(30), val=100 + numbered(4), y_train=np.arange(30))
    splits = data.load_splits("npz", file, seed=2)
    train, validation, test = (i[:, 0, 0, 0].tolist() for i in all_images(splits))
    assert validation == [100, 101, 102, 103]
    assert sorted(train + test) == list(range(30))
    assert splits.test.labels.tolist() == test
    assert splits.notes[0] == (
        f"splits as given in '{file}', test drawn from training by seed 2: 27 training,"
        " 4 validation, 3 test images"
    )


def test_what_a_numpy_file_has_besides_is_left_out_and_said(tmp_path):
    file = tmp_path / "a.npz"
    np.savez(
        file,
        train_images=numbered(10),
        train_labels=np.zeros([10, 14], np.uint8),  # as MedMNIST's chests
        test_images=numbered(5),
        val_images=numbered(5),
        val_labels=np.array(list("abcde"), object),  # which NumPy pickles
        test_labels=np.array(list("abcde")),
        class_names=np.array(["a", "b"]),
    )
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("readme.txt", "None.")
    splits = data.load_splits("npz", file)
    assert splits.train.labels is None
    assert splits.test.labels is None
    assert splits.notes[1:5] == (
        "left out the labels 'test_labels': they are <U1 of shape (5,), not one integer"
        " per image",
        "left out the labels 'train_labels': they are uint8 of shape (10, 14), not one"
        " integer per image",
        "left out the labels 'val_labels': they are object of shape (5,), not one"
        " integer per image",
        "left out arrays class_names, readme.txt: neither images nor their labels",
    )


def test_the_number_of_levels_is_said_or_doubted(tmp_path):
    file = tmp_path / "a.npz"
    images = numbered(30)
    np.savez(file, train=images[:16], validation=images[:8], test=images[:8])
    splits = data.load_splits("npz", file)
    assert splits.info.num_levels == 256
    assert splits.notes[1:] == (small_values(15),)
    splits = data.load_splits("npz", file, num_levels=16)
    assert splits.info.num_levels == 16
    assert len(splits.notes) == 1
    message = (
        "data set 'npz' ({}) has a pixel of value {}, but num_levels is {}, so at most"
        " {}: pass a higher --num-levels (num_levels=...), or correct the images"
    )
    with pytest.raises(ValueError, match=one_line(message.format("train", 15, 15, 14))):
        data.load_splits("npz", file, num_levels=15)
    for name in ("validation", "test"):
        arrays = dict.fromkeys(("train", "validation", "test"), images[:16])
        np.savez(file, **{**arrays, name: images})
        expected = one_line(message.format(name, 29, 16, 15))
        with pytest.raises(ValueError, match=expected):
            data.load_splits("npz", file, num_levels=16)
    # The one that tells comes late.
    for value, doubted in [(127, True), (128, False)]:
        images = np.zeros([3000, 4, 4], np.uint8)
        images[-1, 3, 3] = value
        np.savez(file, train=images, validation=images[:8], test=images[:8])
        splits = data.load_splits("npz", file)
        assert splits.notes[1:] == ((small_values(value),) if doubted else ())


@pytest.mark.filterwarnings("ignore:val_loss is")  # of a few random steps
def test_a_run_goes_on_with_its_own_images_only(tmp_path):
    from aef_tfp.runs import training

    images = numbered_folder(tmp_path / "images", 40)
    run_dir = tmp_path / "run"
    config = RunConfig(
        dataset="folder",
        model="autoencoder",
        networks="dense",
        latent_dim=2,
        iterations=2,
        batch_size=8,
        steps_per_execution=1,
        jit_compile=False,
    )
    arguments = {"data_dir": images, "verbose": 0}
    training.train(config, run_dir, **arguments)
    config = dataclasses.replace(config, iterations=4)
    plain(99).save(images / "new.png")
    message = (
        "the images are not those that the run began with (train: 32 -> 33 images,"
    )
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        training.train(config, run_dir, resume=True, **arguments)
    # Nor are they evaluated: the splits are drawn anew, and training images move.
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        evaluate_run(run_dir, **arguments)
    assert RunConfig.from_run(run_dir).iterations == 2
    # As if an older version had begun it: then it goes on.
    (run_dir / "data.json").rename(tmp_path / "data.json")
    training.train(config, run_dir, resume=True, **arguments)
    assert RunConfig.from_run(run_dir).iterations == 4
    assert not (run_dir / "data.json").exists()
    (images / "new.png").unlink()
    (tmp_path / "data.json").rename(run_dir / "data.json")
    training.train(config, run_dir, resume=True, **arguments)


def test_the_levels_of_a_folder(tmp_path):
    numbered_folder(tmp_path, 20)
    config = RunConfig(dataset="folder", num_levels=20)
    splits = load_run_splits(config, data_dir=tmp_path)
    assert splits.info.num_levels == 20
    assert len(splits.notes) == 2
    assert data.load_splits("folder", tmp_path).notes[2].startswith("the largest value")
    with pytest.raises(ValueError, match=r"19\.png' has a pixel of value 19, but"):
        data.load_splits("folder", tmp_path, num_levels=19)


@pytest.mark.parametrize("image_size", [16, 44])
def test_resizing_makes_no_other_levels(tmp_path, rng, image_size):
    for index in range(5):
        pixels = 16 * rng.integers(0, 2, [30, 30], np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    options = {"image_size": image_size, "num_levels": 17}
    splits = data.load_splits("folder", tmp_path, **options)
    assert max(images.max() for images in all_images(splits)) == 16
    # In a cache, they are others than those of 256 levels.
    cached = {"image_size": image_size, "memory_limit": 0, "cache_dir": tmp_path / ".c"}
    bytes_ = data.load_splits("folder", tmp_path, **cached)
    assert max(images.max() for images in all_images(bytes_)) > 16
    again = data.load_splits("folder", tmp_path, num_levels=17, **cached)
    for one, other in zip(all_images(splits), all_images(again), strict=True):
        np.testing.assert_array_equal(one, other)
    # What is said is what the file has, also where smaller images would hide it.
    pixels[3, 3] = 17
    Image.fromarray(pixels).save(tmp_path / "4.png")
    with pytest.raises(ValueError, match=r"4\.png' has a pixel of value 17, but"):
        data.load_splits("folder", tmp_path, **options)


@pytest.mark.parametrize(
    ("name", "bits"),
    [("a.png", 1), ("a.png", 2), ("a.png", 4), ("a.tif", 1), ("a.pgm", 4)],
)
def test_few_bits_are_levels_of_their_own(tmp_path, name, bits):
    white = 2**bits - 1
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8) % (white + 1)
    file = tmp_path / name
    if name == "a.pgm":
        file.write_bytes(b"P5 8 8 15\n" + pixels.tobytes())
    elif bits == 1:
        Image.fromarray(255 * pixels).convert("1").save(file)
    else:
        rows = np.unpackbits(pixels[..., None], axis=-1)[..., -bits:]
        packed = np.packbits(rows.reshape(8, -1), axis=-1)
        write_png(file, packed, bits)
    found = read_image(file, 8, 8, 1, num_levels=white + 1)
    np.testing.assert_array_equal(found[..., 0], pixels)
    # Of 256 levels, white is the last one.
    assert read_image(file, 8, 8, 3).max() == 255
    if bits > 1:
        with pytest.raises(ValueError, match=f"a pixel of value {white}, but"):
            read_image(file, 8, 8, 1, num_levels=white)


def test_transparent_pixels_are_of_the_brightest_level(tmp_path):
    image = Image.new("LA", (8, 8), (3, 0))
    image.paste((3, 255), (0, 0, 8, 4))
    image.save(tmp_path / "a.png")
    found = read_image(tmp_path / "a.png", 8, 8, 1, num_levels=17)[..., 0]
    np.testing.assert_array_equal(found, np.repeat([3, 16], 4)[:, None] + np.zeros(8))


def test_a_run_that_has_begun_is_not_asked_for_a_depth(tmp_path):
    # As by a version that did not ask.
    for index in range(10):
        pixels = np.full([8, 8], 100 * index, np.uint16)
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    config = RunConfig(dataset="folder")
    with pytest.raises(ValueError, match=r"--bit-depth 10 .* or --bit-depth 16"):
        load_run_splits(config, data_dir=tmp_path)
    splits = load_run_splits(config, data_dir=tmp_path, run_dir=tmp_path)
    assert max(images.max() for images in all_images(splits)) == 4
    asked = RunConfig(dataset="folder", bit_depth=10)
    splits = load_run_splits(asked, data_dir=tmp_path, run_dir=tmp_path)
    assert max(images.max() for images in all_images(splits)) == 224
    # One of 8 bits has none.
    images = numbered_folder(tmp_path / "grey")
    load_run_splits(config, data_dir=images, run_dir=tmp_path)


@pytest.mark.parametrize("num_levels", [1, 257])
def test_numbers_of_levels_that_bytes_do_not_have(num_levels):
    message = f"num_levels must be from 2 to 256, got {num_levels}"
    with pytest.raises(ValueError, match=one_line(message)):
        data.load_splits("npz", "a.npz", num_levels=num_levels)
    with pytest.raises(ValueError, match=one_line(message + ".")):
        RunConfig(dataset="npz", num_levels=num_levels).check()


def test_every_pixel_arrives(tmp_path, rng, monkeypatch):
    file = tmp_path / "a.npz"
    images = rng.integers(0, 256, [2500, 4, 5, 3], np.uint8)
    images[:, 0, 0, 0] = np.arange(2500) // 256
    images[:, 0, 0, 1] = np.arange(2500) % 256
    for array in (images, np.asfortranarray(images)):
        np.savez(file, images=array)
        splits = data.load_splits("npz", file)
        assert splits.info.image_shape == (4, 5, 3)
        assert splits.info.logit_lambda == 0.05
        together = np.concatenate(all_images(splits))
        index = 256 * together[:, 0, 0, 0].astype(int) + together[:, 0, 0, 1]
        assert len(set(index)) == 2500
        np.testing.assert_array_equal(together, images[index])
    arguments = {"memory_limit": 20_000, "cache_dir": tmp_path / "cache"}
    mapped = data.load_splits("npz", file, **arguments)
    for one, two in zip(all_images(splits), all_images(mapped), strict=True):
        np.testing.assert_array_equal(one, two)
    assert isinstance(mapped.train.images, np.memmap)
    assert not isinstance(mapped.test.images, np.memmap)
    assert mapped.notes[1].startswith(
        "npz-train: 120.0 kB of decoded images exceed the memory limit of 20.0 kB"
    )


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"images": np.zeros([5, 8, 8])},
            "array 'images' of '{}' is float64; images must be uint8, 0 to 255: of"
            " floats in [0, 1] save np.round(255 * images).astype('uint8')",
        ),
        (
            {"images": np.array([{}, {}])},
            "array 'images' of '{}' is object; images must be uint8, 0 to 255: bring"
            " the images to one size, and save np.stack(list_of_images)",
        ),
        (
            {"images": np.zeros([5, 3, 8, 8], np.uint8)},
            "array 'images' of '{}' has shape (5, 3, 8, 8); images must be [n, H, W],"
            " [n, H, W, 1] or [n, H, W, 3]: reshape or transpose it",
        ),
        (
            {"images": np.zeros([5, 8, 8, 4], np.uint8)},
            "array 'images' of '{}' has shape (5, 8, 8, 4); images must be [n, H, W],"
            " [n, H, W, 1] or [n, H, W, 3]: reshape or transpose it",
        ),
        (
            {"images": np.zeros([0, 8, 8], np.uint8)},
            "array 'images' of '{}' holds no images: its shape is (0, 8, 8); check what"
            " was saved",
        ),
        (
            {"train": numbered(5), "test": np.zeros([0, 8, 8, 1], np.uint8)},
            "array 'test' of '{}' holds no images: its shape is (0, 8, 8, 1); check"
            " what was saved",
        ),
        (
            {"x": numbered(5), "train": numbered(5)},
            "'{}' has the arrays train, x: if there are splits, it is not clear what"
            " 'x' is for; remove it, or rename it to train",
        ),
        (
            {"images": numbered(5), "train_labels": np.arange(5)},
            "'{}' has labels train_labels without images; names are"
            f" {NAMES}: rename or remove them",
        ),
        (
            {"images": numbered(5), "labels": np.arange(4)},
            "array 'labels' of '{}' has shape (4,); labels must be 5, one for each"
            " image of 'images': correct or remove them",
        ),
        (
            {"train": numbered(5), "test": numbered(5, (8, 9))},
            "the images in '{}' differ in shape (train (8, 8, 1), test (8, 9, 1)): make"
            " them equal",
        ),
        (
            {"images": np.zeros([5, 8, 8], np.int64)},
            "array 'images' of '{}' is int64; images must be uint8, 0 to 255: save"
            " images.astype('uint8') if they are, or else scale them, of 12 bits by"
            " np.round(images * (255 / 4095)).astype('uint8')",
        ),
        (
            {"images": np.zeros([5, 8, 8], bool)},
            "array 'images' of '{}' is bool; images must be uint8, 0 to 255: save"
            " images.astype('uint8'), and pass --num-levels 2",
        ),
        (
            {"x_train": numbered(5), "train_images": numbered(5)},
            "'{}' has the arrays 'train_images' and 'x_train', both named as the train"
            " images: remove one of them",
        ),
        (
            {"images": numbered(5), "y": np.arange(5), "labels": np.arange(5)},
            "'{}' has the arrays 'labels' and 'y', both named as the labels: remove one"
            " of them",
        ),
        (
            {"x_test": numbered(5), "y_test": np.arange(5)},
            "'{}' has the arrays x_test, y_test, none of which are images to train on;"
            f" names are {NAMES}: write it with np.savez and these names",
        ),
        (
            {"arr_0": numbered(5), "arr_1": np.arange(5)},
            "'{}' has the arrays arr_0, arr_1, none of which are images to train on;"
            f" names are {NAMES}: write it with np.savez and these names",
        ),
        (
            {"x_train": numbered(5), "x_tset": numbered(5)},
            "'{}' has the arrays x_train, x_tset, and it is not clear what 'x_tset' of"
            f" shape (5, 8, 8) is for; names are {NAMES}: rename or remove it",
        ),
        (
            {"train": numbered(2), "val": numbered(2)},
            "array 'train' of '{}' holds 2 readable images: there must be at least 3, 2"
            " of them for test: add more",
        ),
        (
            {"images": numbered(3)},
            "'{}' holds 3 readable images: there must be at least 4, one each for"
            " training and validation and 2 for test: add more",
        ),
        (
            {"train": numbered(1), "test": numbered(2)},
            "array 'train' of '{}' holds 1 readable image: there must be at least 2,"
            " one of them for validation: add more",
        ),
        (
            {"train": numbered(5), "test": numbered(1)},
            "array 'test' of '{}' holds 1 readable image: there must be at least"
            " 2: add more",
        ),
        (
            {"train": numbered(5), "validation": numbered(5), "test": numbered(1)},
            "array 'test' of '{}' holds 1 readable image: there must be at least"
            " 2: add more",
        ),
    ],
)
def test_numpy_files_that_do_not_serve(tmp_path, arrays, message):
    file = tmp_path / "a.npz"
    np.savez(file, **arrays)
    with pytest.raises(ValueError, match=one_line(message.format(file))):
        data.load_splits("npz", file)


def spoil_bytes(file):
    """Changes a pixel behind the checksum's back."""
    content = bytearray(file.read_bytes())
    place = content.index(np.full(64, 3, np.uint8).tobytes())
    content[place] ^= 1
    file.write_bytes(content)


def members(file):
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_members(file, contents):
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)


def spoil_end(file):
    contents = members(file)
    contents["images.npy"] = contents["images.npy"][:-10]
    write_members(file, contents)


def spoil_ending(file):
    contents = members(file)
    contents["images"] = contents.pop("images.npy")
    write_members(file, contents)


def spoil_labels_ending(file):
    write_members(file, {**members(file), "labels": b"1 2 3"})


def spoil_content(file):
    write_members(file, {"images.npy": b"no array"})


def spoil_header(file):
    write_members(file, {"images.npy": b"\x93NUMPY\x01\x00\x08\x00no dict\n"})


@pytest.mark.parametrize(
    ("spoil", "name", "reason"),
    [
        (spoil_bytes, "images", "Bad CRC-32 for file 'images.npy'"),
        (spoil_end, "images", "it ends after fewer images than it says"),
        (spoil_ending, "images", "There is no item named 'images.npy' in the archive"),
        (spoil_content, "images", ".*magic string.*"),
        (spoil_header, "images", "Cannot parse header.*"),
        (spoil_labels_ending, "labels", "There is no item named 'labels.npy' in .*"),
    ],
)
def test_damaged_numpy_files(tmp_path, spoil, name, reason):
    file = tmp_path / "a.npz"
    np.savez(file, images=numbered(10))
    spoil(file)
    message = (
        rf"^array '{name}' of '{file}' cannot be read \({reason}\): write the file"
        r" again with np\.savez or np\.savez_compressed$"
    )
    with pytest.raises(ValueError, match=message):
        data.load_splits("npz", file)


def test_damaged_compressed_numpy_files(tmp_path, rng):
    file = tmp_path / "a.npz"
    np.savez_compressed(file, images=rng.integers(0, 4, [500, 8, 8], np.uint8))
    content = bytearray(file.read_bytes())
    content[60:70] = b"\xff" * 10  # behind the header of the archive
    file.write_bytes(content)
    message = rf"^array 'images' of '{file}' cannot be read \(Error -3 while decompr"
    with pytest.raises(ValueError, match=message):
        data.load_splits("npz", file)


def test_sizes_and_channels_that_a_numpy_file_does_not_have(tmp_path):
    file = tmp_path / "a.npz"
    np.savez(file, images=numbered(5))
    message = (
        f"image_size is 16, but '{file}' has images of 8 x 8, which are taken as they"
        " are: leave it out, or resize the images before you save them"
    )
    with pytest.raises(ValueError, match=one_line(message)):
        data.load_splits("npz", file, image_size=16)
    message = (
        f"channels is 3, but the images in '{file}' have 1, and are taken as they are:"
        " leave it out, or convert the images before you save them"
    )
    with pytest.raises(ValueError, match=one_line(message)):
        data.load_splits("npz", file, channels=3)
    assert len(data.load_splits("npz", file, image_size=8, channels=1).train) == 2


def test_files_that_are_no_numpy_files_of_arrays(tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match=one_line(
            f"'{tmp_path}' holds 0 .npz files (none), not exactly one: pass the file"
            " itself with --data-dir (data_dir=...)"
        ),
    ):
        data.load_splits("npz", tmp_path)
    file = tmp_path / "a.npz"
    with pytest.raises(FileNotFoundError, match=f"^there is no file '{file}': pass"):
        data.load_splits("npz", file)
    file.touch()
    message = f"'{file}' is no NumPy file of several arrays (No data left in file):"
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        data.load_splits("npz", file)
    file.write_text("no zip")
    message = f"^'{file}' is no NumPy file of several arrays \\(.*\\): write it with np"
    with pytest.raises(ValueError, match=message):
        data.load_splits("npz", file)
    np.save(tmp_path / "b.npy", numbered(5))
    with pytest.raises(ValueError, match=r"^'.*b\.npy' holds a single array without"):
        data.load_splits("npz", tmp_path / "b.npy")
    (tmp_path / "c.npz").touch()
    with pytest.raises(
        FileNotFoundError, match=r"holds 2 \.npz files \(a\.npz, c\.npz\), not exactly"
    ):
        data.load_splits("npz", tmp_path)
    with pytest.raises(
        ValueError, match=r"^data set 'npz' needs a place: pass your \.npz"
    ):
        data.load_splits("npz")


# CelebA-HQ.


@pytest.fixture
def faces(tmp_path, monkeypatch):
    """20 images in place of 30,000, whose grey value is ten times their number."""
    monkeypatch.setattr(celeba_hq, "_NUM_IMAGES", 20)
    manual = tmp_path / "downloads" / "manual" / "celeba_hq"
    for index in range(20):
        file = manual / "CelebA-HQ-img" / f"{index}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        plain((10 * index,) * 3, (80, 80)).save(file, quality=95)
    return manual


def write_lists(manual, mapping="CelebA-HQ-to-CelebA-mapping.txt"):
    """The original partition: image 0, 5, ... for test, 4, 8, ... for validation."""
    lines = ["idx   orig_idx   orig_file"]
    lines += [f"{i}   {99 - i}   {99 - i:06}.jpg" for i in range(20)]
    (manual / mapping).write_text("\n".join(lines) + "\n")
    places = {i: 2 if i % 5 == 0 else 1 if i % 4 == 0 else 0 for i in range(20)}
    lines = [f"{99 - i:06}.jpg {places[i]}" for i in reversed(range(20))]
    lines.append("000100.jpg 0")  # CelebA has more images.
    (manual / "list_eval_partition.txt").write_text("\n".join(lines) + "\n")
    return [[i for i in range(20) if places[i] == place] for place in range(3)]


def face_numbers(splits):
    return [
        sorted(round(image.mean() / 10) for image in images)
        for images in all_images(splits)
    ]


def test_celeba_hq_without_lists_is_split_by_number(faces, tmp_path, capfd):
    splits = data.load_splits("celebahq32", tmp_path)
    assert face_numbers(splits) == [list(range(16)), [16, 17], [18, 19]]
    assert splits.train.images.shape == (16, 32, 32, 3)
    assert splits.notes == (
        "the splits are not the original partition of CelebA, but 80, 10 and 10 % by"
        f" number: for the original one, delete {tmp_path}/celeba_hq/32/1.0.0 and add"
        f" the lists to {faces}",
    )
    capfd.readouterr()
    assert face_numbers(data.load_splits("celebahq32", tmp_path)) == [
        list(range(16)),
        [16, 17],
        [18, 19],
    ]
    assert capfd.readouterr() == ("", "")
    write_lists(faces)
    message = (
        f"'{tmp_path}/celeba_hq/32/1.0.0' was prepared without the lists of the"
        f" original partition, which are in '{faces}' now: delete the former to prepare"
        " it with them, or remove the lists"
    )
    with pytest.raises(ValueError, match=one_line(message)):
        data.load_splits("celebahq32", tmp_path)
    assert data.load_splits("celebahq64", tmp_path).notes == (
        "the splits are the original partition of CelebA",
    )


@pytest.mark.parametrize(
    "mapping", ["CelebA-HQ-to-CelebA-mapping.txt", "image_list.txt"]
)
def test_celeba_hq_with_lists_has_the_original_partition(faces, tmp_path, mapping):
    expected = write_lists(faces, mapping)
    splits = data.load_splits("celebahq64", tmp_path)
    assert face_numbers(splits) == expected
    assert splits.train.images.shape[1:] == (64, 64, 3)
    assert splits.notes == ("the splits are the original partition of CelebA",)
    # The prepared data set needs neither images nor lists.
    shutil.rmtree(tmp_path / "downloads")
    assert face_numbers(data.load_splits("celebahq64", tmp_path)) == expected


def test_lists_may_lie_deeper_as_unpacked(faces, tmp_path):
    # CelebAMask-HQ/CelebA-HQ-img/*.jpg, and the mapping beside that folder.
    data.load_splits("celebahq64", tmp_path)
    unpacked = faces / "CelebAMask-HQ"
    unpacked.mkdir()
    (faces / "CelebA-HQ-img").rename(unpacked / "CelebA-HQ-img")
    expected = write_lists(unpacked)
    (unpacked / "list_eval_partition.txt").rename(
        unpacked / "CelebA-HQ-img" / "list_eval_partition.txt"
    )
    assert face_numbers(data.load_splits("celebahq32", tmp_path)) == expected
    with pytest.raises(ValueError, match="was prepared without the lists"):
        data.load_splits("celebahq64", tmp_path)


def test_celeba_hq_numbered_from_one_with_zeros(faces, tmp_path):
    expected = write_lists(faces)
    images = faces / "CelebA-HQ-img"
    for index in reversed(range(20)):
        (images / f"{index}.jpg").rename(images / f"img{index + 1:08}.jpg")
    assert face_numbers(data.load_splits("celebahq32", tmp_path)) == expected


@pytest.mark.parametrize("download", [True, False])
def test_missing_files_of_celeba_hq(tmp_path, download):
    message = (
        f"there is no data set 'celebahq64' in '{tmp_path}', and nothing can download"
        " it: put the 30,000 image files of CelebA-HQ (0.jpg to 29999.jpg of"
        " CelebAMask-HQ, https://github.com/switchablenorms/CelebAMask-HQ, or any"
        " others whose names number them in this order) into"
        f" {tmp_path}/downloads/manual/celeba_hq, and for the original partition"
        " CelebA-HQ-to-CelebA-mapping.txt (from there, too) and list_eval_partition.txt"
        " (from CelebA, https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html) beside them"
    )
    with pytest.raises(FileNotFoundError, match=one_line(message)):
        data.load_splits("celebahq64", tmp_path, download=download)
    assert list(tmp_path.iterdir()) == []


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def spoil_number(manual):
    (manual / "CelebA-HQ-img" / "7.jpg").unlink()
    return (
        f"'{manual}' has 19 images, not the 20 of CelebA-HQ; the first number missing"
        " is 7: add what is missing (https://github.com/switchablenorms/CelebAMask-HQ),"
        " remove what does not belong"
    )


def spoil_double(manual):
    plain(3).save(manual / "7.png")
    return (
        f"'{manual}' has two images of number 7, 7.png and CelebA-HQ-img/7.jpg: keep"
        " one copy of the images"
    )


def spoil_name(manual):
    plain(3).save(manual / "face.png")
    return (
        f"'{manual}/face.png' has no number in its name: remove it, or name it as"
        " CelebA-HQ does"
    )


def spoil_image(manual):
    (manual / "CelebA-HQ-img" / "7.jpg").write_text("no image")
    return (
        f"cannot read '{manual}/CelebA-HQ-img/7.jpg' (no image of a known format):"
        " fetch it again"
    )


def spoil_mapping(manual):
    edit(manual / "CelebA-HQ-to-CelebA-mapping.txt", "\n12   87   000087.jpg", "")
    return (
        f"'{manual}/CelebA-HQ-to-CelebA-mapping.txt' does not match the images: it has"
        " no image 12 (CelebA-HQ-img/12.jpg): fetch the list again, or remove both"
        " lists"
    )


def spoil_surplus(manual):
    edit(manual / "CelebA-HQ-to-CelebA-mapping.txt", "19   80   ", "19 80 9\n20 79 ")
    edit(manual / "list_eval_partition.txt", "000080.jpg", "9")
    return (
        f"'{manual}/CelebA-HQ-to-CelebA-mapping.txt' does not match the images: there"
        " is none for its number 20: fetch the list again, or remove both lists"
    )


def spoil_partition(manual):
    edit(manual / "list_eval_partition.txt", "000087.jpg 1\n", "")
    return (
        f"'{manual}/list_eval_partition.txt' does not match"
        " 'CelebA-HQ-to-CelebA-mapping.txt': it has no '000087.jpg', which is image 12"
        " (CelebA-HQ-img/12.jpg): fetch the lists again, or remove both"
    )


def spoil_place(manual):
    edit(manual / "list_eval_partition.txt", "000098.jpg 0", "000098.jpg 3")
    return (
        f"line 19 of '{manual}/list_eval_partition.txt' is '000098.jpg 3', not a file"
        " and 0, 1 or 2: fetch the list again"
    )


def spoil_line(manual):
    edit(manual / "CelebA-HQ-to-CelebA-mapping.txt", "12   87   000087.jpg", "12 87")
    return (
        f"line 14 of '{manual}/CelebA-HQ-to-CelebA-mapping.txt' is '12 87', not a"
        " number, a number in CelebA and a file in CelebA: fetch the list again"
    )


def spoil_pair(manual):
    (manual / "list_eval_partition.txt").unlink()
    return (
        f"'{manual}' has CelebA-HQ-to-CelebA-mapping.txt but not"
        " list_eval_partition.txt; the original partition takes both: add it (from"
        " https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html), or remove the first for a"
        " partition by number"
    )


def spoil_other_of_pair(manual):
    (manual / "CelebA-HQ-to-CelebA-mapping.txt").unlink()
    return without_mapping(manual)


def without_mapping(manual):
    return (
        f"'{manual}' has list_eval_partition.txt but not"
        " CelebA-HQ-to-CelebA-mapping.txt; the original partition takes both: add it"
        " (from https://github.com/switchablenorms/CelebAMask-HQ), or remove the first"
        " for a partition by number"
    )


def spoil_unique_number(manual):
    edit(manual / "CelebA-HQ-to-CelebA-mapping.txt", "19   80   ", "18   80   ")
    return (
        f"line 21 of '{manual}/CelebA-HQ-to-CelebA-mapping.txt' is '18 80 000080.jpg',"
        " but an earlier line has image 18, too: fetch the list again"
    )


def spoil_unique_file(manual):
    edit(manual / "CelebA-HQ-to-CelebA-mapping.txt", "000080.jpg", "000081.jpg")
    return (
        f"line 21 of '{manual}/CelebA-HQ-to-CelebA-mapping.txt' is '19 80 000081.jpg',"
        " but an earlier line has file '000081.jpg', too: fetch the list again"
    )


def spoil_unique_place(manual):
    edit(manual / "list_eval_partition.txt", "000100.jpg 0", "000080.jpg 0")
    return (
        f"line 21 of '{manual}/list_eval_partition.txt' is '000080.jpg 0', but an"
        " earlier line has file '000080.jpg', too: fetch the list again"
    )


def spoil_validation(manual):
    edit(manual / "list_eval_partition.txt", ".jpg 1", ".jpg 0")
    return (
        f"'{manual}/list_eval_partition.txt' gives 1 (validation) to 0 of the images,"
        " not to at least 1: fetch the lists again, or remove both"
    )


def spoil_test(manual):
    edit(manual / "list_eval_partition.txt", "9.jpg 2", "9.jpg 1")
    edit(manual / "list_eval_partition.txt", "4.jpg 2", "4.jpg 0")
    edit(manual / "list_eval_partition.txt", "000089.jpg 1", "000089.jpg 2")
    return (
        f"'{manual}/list_eval_partition.txt' gives 2 (test) to 1 of the images, not to"
        " at least 2: fetch the lists again, or remove both"
    )


def spoil_link(manual):
    # Nothing is partitioned by number because a disk is not plugged in.
    for name in ("CelebA-HQ-to-CelebA-mapping.txt", "list_eval_partition.txt"):
        (manual / name).unlink()
    (manual / "list_eval_partition.txt").symlink_to(manual / "unplugged")
    return without_mapping(manual)


def spoil_text(manual):
    (manual / "list_eval_partition.txt").write_bytes(b"\x89PNG\r\n")
    return f"'{manual}/list_eval_partition.txt' is no text file: fetch the list again"


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_number,
        spoil_double,
        spoil_name,
        spoil_image,
        spoil_mapping,
        spoil_surplus,
        spoil_partition,
        spoil_place,
        spoil_line,
        spoil_pair,
        spoil_other_of_pair,
        spoil_unique_number,
        spoil_unique_file,
        spoil_unique_place,
        spoil_validation,
        spoil_test,
        spoil_link,
        spoil_text,
    ],
)
def test_files_of_celeba_hq_that_do_not_match(faces, tmp_path, spoil):
    write_lists(faces)
    message = spoil(faces)
    with pytest.raises(ValueError, match=one_line(message)):
        data.load_splits("celebahq32", tmp_path)
    assert not (tmp_path / "celeba_hq" / "32" / "1.0.0").exists()
