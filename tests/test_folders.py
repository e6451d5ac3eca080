"""Folders of images: links, splits of the user's, what is left out, deep files."""

import itertools
import os
import re
import socket

import numpy as np
import pytest
from PIL import Image

from aef_tfp import data
from aef_tfp.data.finding import find_files
from aef_tfp.data.image_files import EXTENSIONS, read_header, read_image
from aef_tfp.data.splits import drawn_sizes
from aef_tfp.runs.config import RunConfig


def one_line(message):
    return "^" + re.escape(message) + "$"


def draw(path, *values):
    """Writes grey images whose value is their name."""
    path.mkdir(parents=True, exist_ok=True)
    for value in values:
        Image.new("L", (8, 8), value).save(path / f"{value}.png")
    return path


def values(splits):
    parts = (splits.train, splits.validation, splits.test)
    return [sorted(part.images[:, 0, 0, 0].tolist()) for part in parts]


def everything(splits):
    return sorted(itertools.chain(*values(splits)))


# Links.


def test_links_to_files_and_folders_are_followed(tmp_path):
    elsewhere = draw(tmp_path / "elsewhere", 1, 2, 3, 4)
    draw(elsewhere / "inner", 5)
    photos = draw(tmp_path / "photos", 10, 11)
    (photos / "more").symlink_to(elsewhere)
    (photos / "one.png").symlink_to(draw(tmp_path / "files", 20) / "20.png")
    splits = data.load_splits("folder", photos)
    assert everything(splits) == [1, 2, 3, 4, 5, 10, 11, 20]
    # The folder itself may be one, too.
    (tmp_path / "link").symlink_to(photos)
    assert values(data.load_splits("folder", tmp_path / "link")) == values(splits)


def test_links_in_a_circle_end(tmp_path):
    photos = draw(tmp_path / "outer" / "photos", *range(10))
    draw(tmp_path / "outer" / "others", 99)
    draw(photos / "deep" / "deeper", 10)
    (photos / "deep" / "deeper" / "up").symlink_to(photos / "deep")
    (photos / "self").symlink_to(".")
    # Whatever holds the folder is none of its images.
    (photos / "above").symlink_to("..")
    (photos / "root").symlink_to("/")
    (photos / "a").symlink_to("b")
    (photos / "b").symlink_to("a")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "back").symlink_to(photos)
    (photos / "out").symlink_to(outside)
    found = find_files(photos)
    assert len(found.images) == 11
    again = ["above", "deep/deeper/up", "out/back", "root", "self"]
    assert found.again == again
    assert found.left_out() == "2 links to nothing, such as 'a'"  # and b
    splits = data.load_splits("folder", photos)
    assert everything(splits) == list(range(11))
    assert (
        "5 links or names lead to files that are there already, such as 'above': each"
        " file counts once" in splits.notes
    )


def test_a_file_of_several_names_counts_once(tmp_path):
    photos = draw(tmp_path, *range(10))
    (photos / "a").mkdir()
    for link in ("a/z.png", "y.png"):
        (photos / link).symlink_to(photos / "3.png")
    os.link(photos / "4.png", photos / "a" / "hard.png")
    (photos / "b").symlink_to("a")
    found = find_files(photos)
    assert found.images == [f"{i}.png" for i in range(10)]
    assert found.again == ["a/hard.png", "a/z.png", "b", "y.png"]


def test_what_is_found_does_not_depend_on_the_file_system(tmp_path, monkeypatch):
    from aef_tfp.data import finding

    photos = draw(tmp_path, *range(4))
    draw(photos / "a", 5, 6)
    (photos / "l1").symlink_to("a")
    (photos / "l2").symlink_to(draw(tmp_path.parent / f"{tmp_path.name}x", 7, 8))
    (photos / "l3").symlink_to((photos / "l2").resolve())
    one = find_files(photos)
    assert one.again == ["l1", "l3"]
    original = os.scandir

    class Backwards:
        def __init__(self, path):
            self.entries = original(path)

        def __enter__(self):
            return reversed(sorted(self.entries, key=lambda entry: entry.name))

        def __exit__(self, *_):
            self.entries.close()

    monkeypatch.setattr(finding.os, "scandir", Backwards)
    assert find_files(photos) == one


# What is left out.


def test_what_is_left_out_is_counted_by_its_ending(tmp_path):
    draw(tmp_path, *range(10))
    names = ["a.heic", "b.HEIC", "c.heic", "d.txt", "e.TXT", "Makefile", "x.a, b"]
    names += [".c.PNG", "._0.png", ".DS_Store", "a.two\nlines", "g.jpg.part"]
    for name in names:
        (tmp_path / name).touch()
    draw(tmp_path / ".thumbnails", 20)
    splits = data.load_splits("folder", tmp_path)
    assert splits.notes[1] == (
        "left out 3 .heic, 3 without an ending, 2 .txt, 1 .part, 1 hidden .png: to"
        " have pictures among them, convert them to .png"
    )
    for index in range(15):
        (tmp_path / f"f.{index:03}").touch()
    note = data.load_splits("folder", tmp_path).notes[1]
    assert "2 .txt, 1 .000, 1 .001" in note
    assert ", 10 of 10 other kinds: to" in note


def test_links_to_nothing_are_named(tmp_path):
    draw(tmp_path, *range(10))
    (tmp_path / "cats").symlink_to(tmp_path / "unplugged")
    assert data.load_splits("folder", tmp_path).notes[1] == (
        "left out 1 link to nothing, such as 'cats'"
    )


def test_pictures_of_runs_are_no_images_of_a_folder(tmp_path):
    photos = draw(tmp_path / "photos", *range(10))
    for run, files in {
        "runs/new": ["config.json", "environment.json"],
        "runs/copy": ["config.json", "best.keras"],
        "classes/cats": ["config.json"],
    }.items():
        draw(photos / run, 20, 21)
        for name in files:
            (photos / run / name).touch()
    (photos / "link").symlink_to(photos / "runs" / "new")
    splits = data.load_splits("folder", photos)
    assert everything(splits) == [*range(10), 20, 21]
    assert splits.notes[1] == (
        "left out 1 .json, 2 run directories, such as 'runs/copy': to have pictures"
        " among them, convert them to .png"
    )
    # Who names one means it.
    assert find_files(photos / "runs" / "new").images == ["20.png", "21.png"]
    message = (
        f"there are no images in '{photos / 'runs'}', but 2 run directories, such as"
        " 'copy':"
    )
    with pytest.raises(FileNotFoundError, match=re.escape(message)):
        data.load_splits("folder", photos / "runs")


def test_special_files_are_not_opened(tmp_path):
    draw(tmp_path, *range(10))
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    server = socket.socket(socket.AF_UNIX)
    server.bind(os.path.relpath(tmp_path / "socket.png"))
    try:
        splits = data.load_splits("folder", tmp_path)
    finally:
        server.close()
    assert everything(splits) == list(range(10))
    assert splits.notes[1] == "left out 4 special files (pipes and the like)"


def test_folders_that_cannot_be_read_are_named(tmp_path, monkeypatch):
    from aef_tfp.data import finding

    draw(tmp_path, *range(10))
    draw(tmp_path / "cats", 20)
    original = os.scandir

    def scandir(path):
        if os.path.basename(path) == "cats":
            raise PermissionError(13, "Permission denied", path)
        return original(path)

    monkeypatch.setattr(finding.os, "scandir", scandir)
    message = (
        f"folders in '{tmp_path}' cannot be read: 'cats' (Permission denied): allow it,"
        " or pass --skip-unreadable (skip_unreadable=True)"
    )
    with pytest.raises(ValueError, match=one_line(message)):
        data.load_splits("folder", tmp_path)
    splits = data.load_splits("folder", tmp_path, skip_unreadable=True)
    assert splits.notes[1] == (
        "folders that cannot be read were skipped: 'cats' (Permission denied)"
    )


# Kinds of files.


@pytest.mark.parametrize("ending", EXTENSIONS)
def test_every_ending_is_read_in_any_case(tmp_path, ending):
    for index in range(4):
        image = Image.new("L", (8, 8), 40 * index)
        name = f"{index}{ending.upper() if index % 2 else ending}"
        lossless = {"lossless": True} if ending == ".webp" else {}
        if ending == ".pbm":
            image = image.convert("1")
        elif ending == ".apng":
            lossless = {"format": "png"}
        elif ending == ".dib":
            lossless = {"format": "dib"}
        elif ending == ".jpe":
            lossless = {"format": "jpeg"}
        image.save(tmp_path / name, **lossless)
    splits = data.load_splits("folder", tmp_path, channels=1)
    assert len(everything(splits)) == 4
    if ending != ".pbm":
        assert everything(splits) == [0, 40, 80, 120]


def test_tiff_of_many_modes(tmp_path):
    red = Image.new("RGB", (8, 8), (255, 0, 0))
    for index, mode in enumerate(["RGB", "RGBA", "CMYK", "P", "L", "LA", "1", "I;16"]):
        image = red.convert(mode) if mode != "I;16" else Image.new("I;16", (8, 8))
        image.save(tmp_path / f"{index}.tif")
    first = [Image.new("L", (8, 8), value) for value in (10, 200)]
    first[0].save(tmp_path / "pages.tiff", save_all=True, append_images=first[1:])
    assert read_image(tmp_path / "pages.tiff", 8, 8, 1)[0, 0, 0] == 10
    for index in range(4):
        pixel = read_image(tmp_path / f"{index}.tif", 8, 8, 3)[0, 0].astype(int)
        assert np.abs(pixel - [255, 0, 0]).max() < 6
    assert not read_header(tmp_path / "0.tif").grey
    for index in range(4, 8):
        assert read_header(tmp_path / f"{index}.tif").grey
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros([16, 24], np.uint8)
    pixels[:, :12] = 255
    Image.fromarray(pixels).save(tmp_path / "turned.tif", exif=exif)
    turned = read_image(tmp_path / "turned.tif", 12, 8, 1)
    assert np.all(turned[:5] > 240)
    assert np.all(turned[7:] < 15)


@pytest.mark.parametrize(("dtype", "bit_depth"), [(np.uint8, 16), (np.uint16, 12)])
def test_white_may_be_zero_in_tiff(tmp_path, dtype, bit_depth):
    largest = 255 if dtype is np.uint8 else 4095
    pixels = np.linspace(0, largest, 64).astype(dtype).reshape(8, 8)
    stored = pixels if dtype is np.uint8 else largest - pixels
    # Pillow turns 8 bits over when it writes them, too.
    Image.fromarray(stored).save(tmp_path / "a.tif", tiffinfo={262: 0})
    got = read_image(tmp_path / "a.tif", 8, 8, 1, bit_depth)[..., 0]
    np.testing.assert_allclose(got, pixels * (255 / largest), atol=0.501)


# Folders that are splits.


def test_a_folder_of_answers_is_no_split(tmp_path):
    draw(tmp_path / "train", 1, 2, 3)
    draw(tmp_path / "test", 4, 5)
    (tmp_path / "test_data").mkdir()
    (tmp_path / "test_data" / "answers.csv").touch()
    assert values(data.load_splits("folder", tmp_path))[2] == [4, 5]


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        ("train", "val", "test"),
        ("TRAIN", "Valid", "Test"),
        ("Training", "validation", "Testing"),
        ("train_images", "val-data", "Testset"),
        ("train2017", "val2017", "test2017"),
    ],
)
def test_folders_named_as_splits_are_these(tmp_path, train, validation, test):
    draw(tmp_path / train / "cats" / "deep", 1, 2, 3)
    draw(tmp_path / train / "dogs", 4)
    draw(tmp_path / validation, 5)
    draw(tmp_path / test / "cats", 6, 7)
    (tmp_path / "readme.txt").touch()
    splits = data.load_splits("folder", tmp_path)
    assert values(splits) == [[1, 2, 3, 4], [5], [6, 7]]
    assert splits.notes[2] == (
        f"splits as given by the folders {train!r}, {validation!r} and {test!r}: 4"
        " training, 1 validation, 2 test images"
    )
    # In the order that the seed draws: the first ones are of all classes.
    other = data.load_splits("folder", tmp_path, seed=5).train.images[:, 0, 0, 0]
    assert splits.train.images[:, 0, 0, 0].tolist() != other.tolist()


def test_folders_named_nearly_as_splits_are_said_to_be_none(tmp_path):
    draw(tmp_path / "train-a", *range(10))
    draw(tmp_path / "test-a", 20, 21)
    splits = data.load_splits("folder", tmp_path)
    assert splits.notes[1].startswith(
        "folders such as 'test-a' and 'train-a' are no splits, since they are not named"
        " 'train', 'validation' or 'test': their images are drawn together"
    )


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["seg_train/", "seg_test/"], "folders"),
        (["images_train/", "images_test/"], "folders"),
        (["imagesTrain2017/", "imagesVal2017/"], "folders"),
        (["trainA/", "testA/", "trainB/", "testB/"], "folders"),
        (["x/train_00/", "y/test_00/"], "folders"),
        (["fold1_train/", "fold2_valid/"], "folders"),
        (["my_trainset/", "my_testset/"], "folders"),
        (["train_cats/", "test_dogs/"], "folders"),
        (["train_1", "test_2"], "files"),
        (["cats/img-TRAIN-01", "dogs/img-TEST-22"], "files"),
        (["trains/", "testers/"], None),
        (["TRAINER/", "TESTER/"], None),
        (["training_ground/", "contest/", "latest/", "trainer/"], None),
        (["freight_train/", "crash_test/"], None),
        (["train_station_1", "test_1", "trainees_1", "testees_1"], None),
    ],
)
def test_words_of_splits_in_names_are_noticed(tmp_path, names, kind):
    draw(tmp_path / "others", *range(4))
    for name in names:
        path = tmp_path / f"{name}0.png" if name.endswith("/") else tmp_path / name
        draw(path.parent, 50).joinpath("50.png").rename(path.with_suffix(".png"))
    notes = data.load_splits("folder", tmp_path).notes
    said = [note for note in notes if " are no splits" in note]
    assert len(said) == (kind is not None)
    assert all(note.startswith(f"{kind} such as") for note in said)


def test_files_named_as_splits_are_said_to_be_none(tmp_path):
    draw(tmp_path, *range(5))
    for name in ("train_1", "test_2"):
        (tmp_path / f"{len(name) - 6}.png").rename(tmp_path / f"{name}.png")
    assert data.load_splits("folder", tmp_path).notes[1] == (
        "files such as 'test_2.png' and 'train_1.png' are no splits, since those are"
        " folders named 'train', 'validation' or 'test': their images are drawn"
        " together"
    )


@pytest.mark.parametrize("top", ["archive", "archive/archive", "images"])
def test_splits_may_lie_in_the_one_folder_with_images(tmp_path, top):
    draw(tmp_path / top / "train", *range(10))
    draw(tmp_path / top / "test", 20, 21)
    (tmp_path / "labels" / "train").mkdir(parents=True)
    (tmp_path / "labels" / "train" / "0.txt").touch()
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX" / "._0.png").touch()
    splits = data.load_splits("folder", tmp_path)
    assert values(splits)[2] == [20, 21]
    assert [len(part) for part in values(splits)] == [9, 1, 2]
    assert splits.notes[2].startswith(
        f"splits as given by the folders '{top}/train' and '{top}/test', validation"
        " drawn from training by seed 3: 9 training,"
    )


def test_a_missing_split_is_drawn_from_the_training_images(tmp_path):
    draw(tmp_path / "train", *range(30))
    draw(tmp_path / "val", 100, 101)
    splits = data.load_splits("folder", tmp_path)
    train, validation, test = values(splits)
    assert validation == [100, 101]
    assert sorted(train + test) == list(range(30))
    assert len(test) == 3
    # A bad file leaves its own split.
    (tmp_path / "val" / "bad.png").touch()
    (tmp_path / "train" / "bad.png").touch()
    skipped = data.load_splits("folder", tmp_path, skip_unreadable=True)
    assert values(skipped) == [train, validation, test]


def test_splits_too_large_for_memory_are_the_same(tmp_path):
    draw(tmp_path / "images" / "train", *range(20))
    draw(tmp_path / "images" / "val", 100, 101)
    draw(tmp_path / "images" / "test", 200, 201)
    (tmp_path / "images" / "val" / "bad.png").touch()
    arguments = {"skip_unreadable": True, "cache_dir": tmp_path / "cache"}
    one = data.load_splits("folder", tmp_path / "images", **arguments)
    for _ in range(2):  # cached in, and read from there
        arguments["memory_limit"] = 0
        two = data.load_splits("folder", tmp_path / "images", **arguments)
        assert isinstance(two.validation.images, np.memmap)
        assert values(two) == values(one) == [[*range(20)], [100, 101], [200, 201]]


def test_training_images_alone_are_divided(tmp_path):
    draw(tmp_path / "train" / "test", *range(20))
    splits = data.load_splits("folder", tmp_path)
    assert [len(part) for part in values(splits)] == [16, 2, 2]
    assert splits.notes[1].startswith("splits drawn by seed 3: 16 training")


@pytest.mark.parametrize("name", ["val", "test"])
def test_a_folder_of_one_split_alone_is_a_folder(tmp_path, name):
    draw(tmp_path / name, *range(20))
    assert [len(part) for part in values(data.load_splits("folder", tmp_path))] == [
        16,
        2,
        2,
    ]


def test_a_train_is_no_split_if_there_is_no_other(tmp_path):
    draw(tmp_path / "car", *range(10))
    draw(tmp_path / "train", *range(10, 20))
    splits = data.load_splits("folder", tmp_path)
    assert everything(splits) == list(range(20))
    assert splits.notes[1] == (
        "folder 'train' is taken as any other, since there is none named as the"
        " validation or test images"
    )


def test_splits_deeper_down_are_said_to_be_none(tmp_path):
    for name in ("cats", "dogs"):
        draw(tmp_path / name / "train", *range(10))
        draw(tmp_path / name / "test", 20, 21)
    splits = data.load_splits("folder", tmp_path)
    assert splits.notes[1] == (
        "folders such as 'cats/test' and 'cats/train' are no splits, since they are not"
        " at the top: their images are drawn together"
    )


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (
            {"train": 5, "test": 5, ".": 2},
            "'{}' has 2 images beside its folders 'test' and 'train', such as '0.png',"
            " and it is not clear what for: move them into one of these, or elsewhere",
        ),
        (
            {"train": 5, "val": 5, "masks": 1},
            "'{}' has 1 image beside its folders 'train' and 'val', such as"
            " 'masks/0.png', and it is not clear what for: move them into one of these,"
            " or elsewhere",
        ),
        (
            {"cats": 5, "test": 5},
            "'{}' has a folder 'test' but none that is named 'train', so it is not"
            " clear what is for training: put that into a folder 'train', or rename the"
            " other",
        ),
        (
            {"val": 5, "test": 5},
            "'{}' has a folder 'test' but none that is named 'train', so it is not"
            " clear what is for training: put that into a folder 'train', or rename the"
            " other",
        ),
        (
            {"train": 5, "val": 5, "valid": 5},
            "'{}' has the folders 'val' and 'valid', both named as the validation"
            " images: make them one, or rename one",
        ),
        (
            {"train": 5, "test": 0},
            "folder 'test' of '{}' holds no images: add some, or remove it",
        ),
        (
            {"train": 0, "test": 5},
            "folder 'train' of '{}' holds no images: add some, or remove it",
        ),
        (
            {"train": 5, "test": 1},
            "folder 'test' of '{}' holds 1 readable image: there must be at least 2:"
            " add more",
        ),
        (
            {"train": 1, "test": 5},
            "folder 'train' of '{}' holds 1 readable image: there must be at least 2,"
            " one of them for validation: add more",
        ),
        (
            {"train": 2, "val": 5},
            "folder 'train' of '{}' holds 2 readable images: there must be at least 3,"
            " 2 of them for test: add more",
        ),
    ],
)
def test_splits_that_are_not_clear(tmp_path, folders, message):
    for name, number in folders.items():
        draw(tmp_path / name, *range(number))
    with pytest.raises(ValueError, match=one_line(message.format(tmp_path))):
        data.load_splits("folder", tmp_path)


def test_a_split_of_other_files(tmp_path):
    draw(tmp_path / "train", *range(10))
    (tmp_path / "test").mkdir()
    for name in ("a.heic", "b.heic", "c.txt"):
        (tmp_path / "test" / name).touch()
    message = (
        f"folder 'test' of '{tmp_path}' holds no images, but 2 .heic, 1 .txt: add some,"
        " or remove it"
    )
    with pytest.raises(ValueError, match=one_line(message)):
        data.load_splits("folder", tmp_path)


def test_a_split_that_links_to_nothing(tmp_path):
    draw(tmp_path / "train", *range(10))
    (tmp_path / "val").symlink_to(tmp_path / "unplugged")
    message = (
        f"folder 'val' of '{tmp_path}' holds no images (No such file or directory):"
        " add some, or remove it"
    )
    with pytest.raises(ValueError, match=one_line(message)):
        data.load_splits("folder", tmp_path)


def test_an_empty_folder_beside_images_is_no_split(tmp_path):
    draw(tmp_path, *range(10))
    (tmp_path / "test").mkdir()
    assert everything(data.load_splits("folder", tmp_path)) == list(range(10))


def test_splits_of_links_into_one_folder(tmp_path):
    pool = draw(tmp_path / "pool", *range(12))
    for name, numbers in {
        "train": range(8),
        "val": [8, 9],
        "test": [10, 11, 0],
    }.items():
        (tmp_path / name).mkdir()
        for number in numbers:
            (tmp_path / name / f"{number}.png").symlink_to(pool / f"{number}.png")
    # All of the folder beside them is in one of them, and nothing is in two.
    splits = data.load_splits("folder", tmp_path)
    assert values(splits) == [list(range(1, 8)), [8, 9], [0, 10, 11]]
    assert splits.notes[1].startswith("13 links or names lead to files that are")


def test_a_split_that_is_a_link(tmp_path):
    photos = tmp_path / "photos"
    draw(photos / "train", *range(10))
    (photos / "test").symlink_to(draw(tmp_path / "elsewhere", 20, 21))
    (photos / "train" / "all").symlink_to("..")
    assert values(data.load_splits("folder", photos))[2] == [20, 21]
    (photos / "val").symlink_to("test")
    message = (
        f"folder 'val' of '{photos}' holds no images that are not in another split,"
        " too: add some, or remove it"
    )
    with pytest.raises(ValueError, match=one_line(message)):
        data.load_splits("folder", photos)


@pytest.mark.parametrize(
    "given", [["train"], ["train", "test"], ["train", "validation"]]
)
def test_few_images_are_enough_or_refused(given):
    names = dict.fromkeys(given, "here")
    for number in range(21):
        numbers = dict.fromkeys(given, number)
        drawn = {"train": 1, "validation": 1, "test": 2}
        least = sum(n for split, n in drawn.items() if split not in given[1:])
        least = max(least, 2 if "test" in given else 1)
        if number < least:
            with pytest.raises(ValueError, match=r"^here holds [^\n]*: add more$"):
                drawn_sizes(numbers, names)
            continue
        sizes = drawn_sizes(numbers, names)
        assert sum(sizes.values()) == number * len(given)
        assert all(sizes[split] >= n for split, n in drawn.items())


# More than 8 bits.


def draw_deep(path, largest, name="{}.png", number=10):
    for index in range(number):
        pixels = np.linspace(0, largest, 64).astype(np.uint16).reshape(8, 8)
        Image.fromarray(pixels).save(path / name.format(index))


@pytest.mark.parametrize(
    ("largest", "bits"), [(4095, 12), (1023, 10), (3000, 12), (16_383, 14), (200, 8)]
)
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_scans_of_few_bits_in_16_are_asked_about(tmp_path, largest, bits, ending):
    draw_deep(tmp_path, largest, f"{{}}.{ending}")
    white = 2**bits - 1
    message = (
        f"no value of the 10 image files of 16 bits in '{tmp_path}' is above"
        f" {largest:,}, as if {bits} bits were used: pass --bit-depth {bits}"
        f" (bit_depth={bits}) to make {white:,} white, or --bit-depth 16 (bit_depth=16)"
        " to make 65,535 white"
    )
    with pytest.raises(ValueError, match=one_line(message)):
        data.load_splits("folder", tmp_path)
    splits = data.load_splits("folder", tmp_path, bit_depth=bits)
    expected = np.linspace(0, largest, 64).astype(np.uint16) * (255 / white)
    got = splits.train.images[0].reshape(64)
    np.testing.assert_allclose(got, expected, atol=0.501)
    dark = data.load_splits("folder", tmp_path, bit_depth=16).train.images
    assert dark.max() == round(largest / 257)


def test_values_that_are_none_of_16_bits_ask_for_nothing(tmp_path):
    for name, values in (
        ("-1.tif", -np.arange(64)),
        ("big.tif", np.arange(64) * 10**4),
    ):
        Image.fromarray(values.reshape(8, 8).astype(np.int32)).save(tmp_path / name)
    message = (
        f"2 of 2 image files are unreadable in '{tmp_path}': '-1.tif' (it has negative"
        " pixels), 'big.tif' (its pixels have more than 16 bits): repair or remove"
        " them, or pass --skip-unreadable (skip_unreadable=True)"
    )
    with pytest.raises(ValueError, match=one_line(message)):
        data.load_splits("folder", tmp_path)


def test_files_that_use_16_bits_are_not_asked_about(tmp_path):
    draw_deep(tmp_path, 4095)
    draw_deep(tmp_path, 16_384, "bright.png", number=1)
    assert len(data.load_splits("folder", tmp_path).train) == 8
    message = (
        f"bit_depth is 12, but 'bright.png' in '{tmp_path}' has a value of 16,384: pass"
        " another --bit-depth (bit_depth=...), or convert the files to 8 bits"
    )
    for skip in (True, False):
        with pytest.raises(ValueError, match=one_line(message)):
            data.load_splits("folder", tmp_path, bit_depth=12, skip_unreadable=skip)


def test_a_depth_of_files_that_have_none(tmp_path):
    draw(tmp_path, *range(10))
    message = (
        f"bit_depth is 12, but no image file in '{tmp_path}' has more than 8 bits:"
        " leave it out"
    )
    with pytest.raises(ValueError, match=one_line(message)):
        data.load_splits("folder", tmp_path, bit_depth=12)
    for bits in (7, 17):
        message = f"bit_depth must be from 8 to 16, got {bits}"
        with pytest.raises(ValueError, match=one_line(message)):
            data.load_splits("folder", tmp_path, bit_depth=bits)
        with pytest.raises(ValueError, match=one_line(f"{message}.")):
            RunConfig(dataset="folder", bit_depth=bits).check()
    message = "bit_depth is for the data set 'folder', not 'npz': leave it out"
    with pytest.raises(ValueError, match=one_line(message)):
        data.load_splits("npz", "a.npz", bit_depth=12)
    message = "bit_depth is 12, but it is for the data set folder: leave it out."
    with pytest.raises(ValueError, match=one_line(message)):
        RunConfig(dataset="npz", bit_depth=12).check()


def test_colours_say_nothing_of_the_depth_of_grey_scans(tmp_path):
    draw_deep(tmp_path, 4095)
    write_deep_colours(tmp_path / "bright.png", 65_535)
    with pytest.raises(ValueError, match=r"^no value of the 10 image files of 16 bits"):
        data.load_splits("folder", tmp_path)


def write_deep_colours(path, largest):
    """A PNG file of 16 bits in colour, which Pillow reads but does not write."""
    import tensorflow as tf

    pixels = np.full([8, 8, 3], largest, np.uint16)
    path.write_bytes(tf.io.encode_png(pixels).numpy())


def test_colours_of_few_bits_in_16_cannot_be_read(tmp_path):
    for index in range(5):
        write_deep_colours(tmp_path / f"{index}.png", 4000)
    message = (
        f"no value of the 5 image files of 16 bits in '{tmp_path}' is above 4,095, as"
        " if 12 bits were used, and of images in colour only the upper 8 of 16 can be"
        " read: convert the files to 8 bits, or pass --bit-depth 16 (bit_depth=16) to"
        " make 65,535 white"
    )
    with pytest.raises(ValueError, match=one_line(message)):
        data.load_splits("folder", tmp_path)
    with pytest.raises(
        ValueError, match=r"'.\.png' in '.*' has 16 bits, of which only"
    ):
        data.load_splits("folder", tmp_path, bit_depth=12)
    write_deep_colours(tmp_path / "bright.png", 65_535)
    assert len(everything(data.load_splits("folder", tmp_path))) == 6
