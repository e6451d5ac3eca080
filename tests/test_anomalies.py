"""How well numbers of images tell anomalies: the area under the ROC curve."""

import dataclasses
import itertools

import numpy as np
import pytest

from aef_tfp.data import Splits, dataset_info
from aef_tfp.data.splits import Split
from aef_tfp.metrics import anomaly_records, roc_area
from aef_tfp.metrics.records import records_of_means
from aef_tfp.pictures import save_png
from aef_tfp.runs import others
from aef_tfp.runs.others import load_anomalies
from aef_tfp.runs.presets import get_preset


def test_the_area_is_the_share_of_pairs_in_order(rng):
    # Few values, so that many are equal.
    normal, anomalies = rng.integers(2, 7, 40), rng.integers(0, 5, 30)
    pairs = [(a > b) + 0.5 * (a == b) for a, b in itertools.product(normal, anomalies)]
    assert roc_area(normal, anomalies)[0] == pytest.approx(np.mean(pairs), abs=1e-12)


def test_scores_in_the_wrong_order_have_no_area():
    assert roc_area([0.0, 1.0], [2.0, 3.0]) == (0.0, 0.0)
    assert roc_area([2.0, np.inf], [-np.inf, 1.0]) == (1.0, 0.0)


def test_the_error_is_what_other_scores_would_change(rng):
    draws = [
        roc_area(rng.normal(1.0, 1.0, 60), rng.normal(0.0, 2.0, 40))
        for _ in range(2000)
    ]
    areas, errors = np.transpose(draws)
    # Of 2,000 areas the deviation is known to 2 %.
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(areas.std(), rel=0.06)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (([1.0], [1.0, 2.0]), r"normal must be at least 2 scores"),
        (([1.0, 2.0], [[1.0, 2.0]]), r"anomalies must be .* shape \(1, 2\)"),
        (([1.0, 2.0], [1.0, np.nan]), r"anomalies holds NaN in 1 of 2 scores"),
    ],
)
def test_scores_without_an_area_are_refused(scores, message):
    with pytest.raises(ValueError, match=message):
        roc_area(*scores)


def test_likelihoods_are_to_be_high_and_errors_low():
    def records(log_prob, error, images):
        facts = {"split": "test", "estimator": "any", "images": images}
        bits = {"bits_per_dim": -np.array(log_prob), "log_prob": log_prob}
        return records_of_means(
            {**bits, "reconstruction_error": error}, proposal=None, **facts
        )

    normal = records([3.0, 4.0, 5.0], [0.1, 0.1, 0.3], "01234567")
    others = records([1.0, 2.0], [0.2, 0.2], "89abcdef")
    found = {r.name: r for r in anomaly_records(normal, others, against="others")}
    # Bits say what nats say.
    assert list(found) == ["auroc_log_prob", "auroc_reconstruction_error"]
    assert found["auroc_log_prob"].value == 1.0
    assert found["auroc_reconstruction_error"].value == pytest.approx(2 / 3)
    assert found["auroc_log_prob"].num_images == 3
    assert found["auroc_log_prob"].images == "01234567"
    assert found["auroc_log_prob"].anomalies == "89abcdef"
    assert "noise" not in found["auroc_reconstruction_error"].estimator
    noisy = dataclasses.replace(
        normal[-1], estimator="of pixels of images, noise of deviation 0.5, kept"
    )
    (area,) = anomaly_records([noisy], others, against="others")
    assert area.estimator.endswith(" 2 others, noise of deviation 0.5, kept")
    assert found["auroc_log_prob"].standard_error == 0.0
    assert found["auroc_log_prob"].detail == (
        "log_prob 4, and 1.5 of the others; all pairs are told apart: the standard "
        "error of 0 does not say how sure that is"
    )
    assert "told apart" not in found["auroc_reconstruction_error"].detail
    (blind,) = anomaly_records(
        records([1.0, 1.0], [0.1, 0.3], "01")[1:2],
        records([1.0, 1.0], [0.1, 0.3], "89")[1:2],
        against="others",
    )
    assert (blind.value, blind.standard_error) == (0.5, 0.0)
    assert "all images of a kind are ranked alike: the standard" in blind.detail


def test_an_anomaly_may_have_no_density_at_all():
    def records(values, **options):
        facts = {"split": "test", "estimator": "any", **options}
        return records_of_means({"log_prob": values}, **facts)

    others = records([1.0, -np.inf], takes_infinite=True)
    (found,) = anomaly_records(records([2.0, 3.0]), others, against="x")
    assert found.value == 1.0
    with pytest.raises(ValueError, match="not finite for 2 of 2 images"):
        records([np.nan, -np.inf])


def test_what_cannot_be_computed_of_an_anomaly_counts_as_its_worst():
    def records(log_prob, error, **options):
        values = {"log_prob": log_prob, "reconstruction_error": error}
        facts = {"split": "test", "estimator": "any", **options}
        return records_of_means(values, **facts)

    normal = records([2.0, 3.0], [0.1, 0.3])
    bad = records([np.nan, 2.5], [np.inf, np.nan], takes_infinite=True)
    nats, error = anomaly_records(normal, bad, against="others")
    assert (nats.value, error.value) == (0.75, 1.0)
    end = "could not be computed, and count as infinite"
    assert nats.detail == f"log_prob 2.5, and -inf of the others; 1 of these 2 {end}"
    assert f"and inf of the others; 1 of these 2 {end}; all pairs" in error.detail


def test_estimates_meet_those_of_their_proposal():
    def records(values, proposal):
        return records_of_means(
            {"marginal_log_prob": values},
            split="test",
            estimator="any",
            proposal=proposal,
        )

    normal = records([1.0, 2.0], "encoder") + records([7.0, 8.0], "laplace")
    others = records([5.0, 6.0], "laplace") + records([3.0, 4.0], "encoder")
    areas = {r.proposal: r.value for r in anomaly_records(normal, others, against="x")}
    assert areas == {"encoder": 0.0, "laplace": 1.0}


def black_images(num_levels=256):
    """Those of a run."""
    part = Split(np.zeros([4, 8, 8, 1], np.uint8))
    facts = dataclasses.replace(
        dataset_info("folder"), image_shape=(8, 8, 1), num_levels=num_levels
    )
    return Splits(part, part, part, facts)


def test_all_images_of_a_folder_are_made_like_the_runs(tmp_path, rng):
    for i in range(6):
        picture = rng.integers(0, 256, [12, 16, 3], np.uint8)
        save_png(tmp_path / f"{i}.png", picture)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    own = black_images()
    run = dataclasses.replace(get_preset("folder-vae-8"), skip_unreadable=True)
    what, images, notes = load_anomalies(str(tmp_path), run, own)
    assert images.shape == (6, 8, 8, 1)
    assert what == f"images of {tmp_path.name}"
    # Nothing is left out unsaid; splits are not drawn.
    assert any("broken.png" in note for note in notes)
    assert not any("training" in note for note in notes)


RUN = get_preset("folder-vae-8")


@pytest.mark.parametrize("kind", ["folder", "npz"])
def test_runs_of_other_seeds_are_shown_the_same_anomalies(kind, tmp_path, rng):
    images = rng.integers(0, 256, [20, 8, 8, 1], np.uint8)
    place = tmp_path / ("a.npz" if kind == "npz" else "a")
    if kind == "npz":
        np.savez(place, images=images)
    else:
        place.mkdir()
        for i, image in enumerate(images):
            save_png(place / f"{i}.png", image)
    found = [
        load_anomalies(
            str(place),
            dataclasses.replace(RUN, seed=seed),
            black_images(),
            num_images=5,
        ).images
        for seed in (3, 4)
    ]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("kind", ["folder", "npz", "NPZ"])
def test_two_anomalies_are_enough(kind, tmp_path, rng):
    images = rng.integers(0, 256, [3, 8, 8, 1], np.uint8)
    for number in (3, 2, 1):
        place = tmp_path / f"{number}.{kind}"
        if kind == "folder":
            place.mkdir()
            for i, image in enumerate(images[:number]):
                save_png(place / f"{i}.png", image)
        else:
            with place.open("wb") as file:
                np.savez(file, images=images[:number])
        if number > 1:
            found = load_anomalies(str(place), RUN, black_images()).images
            assert sorted(map(bytes, found)) == sorted(map(bytes, images[:number]))
    message = "anomalies must be at least 2 images, got 1 in"
    with pytest.raises(ValueError, match=message):
        load_anomalies(str(place), RUN, black_images())


def test_anomalies_may_have_fewer_bits_than_the_run(tmp_path, rng):
    for i in range(2):
        picture = rng.integers(0, 256, [8, 8, 1], np.uint8)
        save_png(tmp_path / f"{i}.png", picture)
    run = dataclasses.replace(RUN, bit_depth=12)
    assert load_anomalies(str(tmp_path), run, black_images()).images.max() > 200


def test_images_of_the_run_are_no_anomalies(tmp_path, rng):
    images = np.zeros([5, 8, 8, 1], np.uint8)
    np.savez(tmp_path / "a.npz", images=images)
    with pytest.raises(ValueError, match=r"other .*a\.npz', all of which") as e:
        load_anomalies(str(tmp_path / "a.npz"), RUN, black_images())
    assert "\n" not in str(e.value)
    images[:3] = rng.integers(0, 256, [3, 8, 8, 1])
    np.savez(tmp_path / "a.npz", images=images)
    place = str(tmp_path / "a.npz")
    _, everything, notes = load_anomalies(place, RUN, black_images())
    assert [note for note in notes if note.startswith("2 of 5 are images of the run")]
    # Those that are asked for are all that is read of them.
    with pytest.MonkeyPatch.context() as patch:
        counted = []
        patch.setattr(others, "_count_own", lambda x, _: counted.append(len(x)) or 0)
        found = load_anomalies(place, RUN, black_images(), num_images=4).images
    np.testing.assert_array_equal(found, everything[:4])
    assert counted == [4]


def test_refused_anomalies_are_told_what_an_evaluation_takes(tmp_path):
    save_png(tmp_path / "a.png", np.full([8, 8, 1], 40, np.uint8))
    save_png(tmp_path / "b.png", np.full([8, 8, 1], 40, np.uint8))
    np.savez(tmp_path / "a.npz", images=np.full([5, 8, 8, 1], 40, np.uint8))
    expected = {
        "a.png": r"a folder of images or an \.npz file, got the file '.*a\.png'",
        "a.npz": r"17 levels of the run, .* got a pixel of value 40 in '.*a\.npz'",
        "": r"17 levels of the run, .* got a pixel of value 40 in '.*[ab]\.png'",
    }
    for name, message in expected.items():
        with pytest.raises(ValueError, match=message) as error:
            load_anomalies(str(tmp_path / name), RUN, black_images(17))
        assert "--" not in str(error.value)


def test_names_of_splits_are_nothing_to_anomalies(tmp_path, rng):
    folder, images = tmp_path / "folder", rng.integers(0, 256, [4, 8, 8, 1], np.uint8)
    for i, place in enumerate(("val", "test", "train", ".")):
        (folder / place).mkdir(parents=True, exist_ok=True)
        save_png(folder / place / f"{i}.png", images[i])
        # Without a folder for training, and at last with an image beside the folders.
        if i > 0:
            found = load_anomalies(str(folder), RUN, black_images()).images
            assert len(found) == i + 1
    np.savez(tmp_path / "a.npz", x_test=images, y_test=np.arange(4))
    found = load_anomalies(str(tmp_path / "a.npz"), RUN, black_images()).images
    assert sorted(map(bytes, found)) == sorted(map(bytes, images))


def test_grey_anomalies_of_a_run_in_colours(tmp_path, rng):
    for i in range(2):
        save_png(tmp_path / f"{i}.png", rng.integers(0, 256, [8, 8, 1], np.uint8))
    own = black_images()
    part = Split(np.zeros([4, 8, 8, 3], np.uint8))
    info = dataclasses.replace(own.info, image_shape=(8, 8, 3))
    found = load_anomalies(str(tmp_path), RUN, Splits(part, part, part, info)).images
    assert found.shape == (2, 8, 8, 3)
    assert (found == found[..., :1]).all()


def test_unreadable_anomalies_are_to_be_repaired_or_removed(tmp_path, rng):
    for i in range(2):
        save_png(tmp_path / f"{i}.png", rng.integers(0, 256, [8, 8, 1], np.uint8))
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"repair or remove them$") as error:
        load_anomalies(str(tmp_path), RUN, black_images())
    assert "--" not in str(error.value)
