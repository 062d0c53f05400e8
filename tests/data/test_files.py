"""Files to predict on: found lazily, read in batches, bad ones listed."""

import itertools
import tracemalloc

import pytest
import torch

from convnext.data import DataConfig, FileBatches, eval_transform, iter_files, read_image


@pytest.fixture
def photos(make_folder, picture):
    root = make_folder({"x/b": 5, "x/a": 4}, name="photos")
    (root / "x/a/001.png").write_bytes(b"")
    (root / "x/b/002.png").write_text("not an image")
    (root / "x/notes.txt").write_text("not meant to be read")
    (root / "x/loop").symlink_to(root)
    picture(90).save(root / "odd name 图.data", "PNG")
    return root


def test_folders_and_files(photos):
    found = list(iter_files([photos / "x/b", photos / "odd name 图.data", photos / "x/a/000.png"]))
    assert found == [
        *(str(photos / f"x/b/00{i}.png") for i in range(5)),
        str(photos / "odd name 图.data"),  # named by the user, so its ending does not matter
        str(photos / "x/a/000.png"),
    ]
    assert len(list(iter_files([photos]))) == 9
    with pytest.raises(ValueError, match=r"gone: no such file or folder"):
        iter_files([photos, photos / "gone"])


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_files_are_listed_and_the_rest_is_done(photos, workers):
    transform = eval_transform(DataConfig(image_size=32))
    batches = FileBatches(iter_files([photos]), transform, batch_size=4, workers=workers)
    images = {}
    for batch in batches:
        assert len(batch["name"]) == len(batch["image"]) > 0
        images |= dict(zip(batch["name"], batch["image"], strict=True))
    assert len(images) == 7
    assert [bad.name for bad in batches.unreadable] == [
        str(photos / "x/a/001.png"),
        str(photos / "x/b/002.png"),
    ]
    assert "0 bytes" in batches.unreadable[0].reason
    for name, image in images.items():
        assert torch.equal(image, transform(read_image(name)))


def test_a_batch_without_a_readable_file_is_left_out(photos):
    bad = [str(photos / "x/a/001.png")] * 3
    batches = FileBatches(bad, eval_transform(DataConfig(image_size=32)), batch_size=2)
    assert list(batches) == []
    assert len(batches.unreadable) == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_files_are_read_only_as_far_as_needed(photos, workers):
    asked = itertools.count()
    names = (str(photos / "x/b/000.png") for _ in asked)
    batches = FileBatches(
        names, eval_transform(DataConfig(image_size=32)), batch_size=2, workers=workers
    )
    stream = iter(batches)
    for _ in range(5):
        next(stream)
    assert next(asked) <= 2 * (5 + 2 * workers + 1)


def test_memory_does_not_grow_with_the_number_of_files(photos):
    transform = eval_transform(DataConfig(image_size=32))
    name = str(photos / "x/b/000.png")
    stream = iter(FileBatches(itertools.repeat(name), transform, batch_size=4))
    next(stream)
    tracemalloc.start()
    for _ in range(100):
        next(stream)
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 200_000
