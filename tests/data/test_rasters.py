"""Rasters with coordinates are read and written in parts; other files are pictures."""

import resource

import numpy as np
import pytest
from PIL import Image

from convnext.data.decode import read_image
from convnext.data.segmentation import raster
from convnext.data.segmentation.raster import ClassRaster, is_geotagged, is_raster
from convnext.data.segmentation.scene import open_scene, read_scene

rasterio = pytest.importorskip("rasterio", reason="the extra convnext[geo] is not installed")
from rasterio import Affine  # noqa: E402
from rasterio.enums import ColorInterp  # noqa: E402

UTM = {"crs": "EPSG:32633", "transform": Affine(0.5, 0, 500_000, 0, -0.25, 5_000_000)}
DEGREES = {"crs": "EPSG:4326", "transform": Affine(1e-4, 0, 10, 0, -1e-4, 50)}


def write(path, bands, *, kinds=None, colours=None, **profile):
    """Bands (b, h, w) as a TIFF in tiles."""
    count, height, width = bands.shape
    profile = {"tiled": True, "blockxsize": 16, "blockysize": 16} | profile
    profile |= {"height": height, "width": width, "count": count, "dtype": bands.dtype}
    with rasterio.open(path, "w", driver="GTiff", **profile) as file:
        file.write(bands)
        if kinds:
            file.colorinterp = kinds
        if colours:
            file.write_colormap(1, colours)
    return path


def some(count, dtype=np.uint8, most=255, shape=(40, 50)):
    values = np.random.default_rng(0).random((count, *shape)) * most
    return values.astype(dtype)


def read(path, channels=3, part=(0, 0, 40, 50)):
    assert read_scene(str(path), channels) is None
    with open_scene(str(path), None, channels) as scene:
        return scene.read(*part), scene.missing(*part)


def test_colours(tmp_path):
    bands = some(5)
    path = write(tmp_path / "a.tif", bands, **UTM)
    pixels, missing = read(path, part=(3, 7, 30, 20))
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, bands[:3, 3:33, 7:27].transpose(1, 2, 0))
    assert missing is None
    grey, _ = read(path, channels=1)
    shown = Image.fromarray(np.ascontiguousarray(bands[:3].transpose(1, 2, 0)))
    assert np.array_equal(grey[:, :, 0], np.asarray(shown.convert("L")))
    (tmp_path / "b.tif").write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"b\.tif: damaged image"):
        read(tmp_path / "b.tif")


def test_grey_and_palette(tmp_path):
    bands = some(1)
    pixels, _ = read(write(tmp_path / "a.tif", bands, **UTM))
    assert np.array_equal(pixels, np.repeat(bands.transpose(1, 2, 0), 3, axis=2))
    colours = {i: (i, 255 - i, 7, 255) for i in range(256)}
    path = write(tmp_path / "b.tif", bands, colours=colours, photometric="palette", **UTM)
    pixels, _ = read(path)
    assert np.array_equal(pixels[..., 1], 255 - bands[0])
    assert (pixels[..., 2] == 7).all()


def test_numbers_of_other_kinds_are_those_of_training(tmp_path):
    wide = some(3, np.uint16, 65535)
    pixels, _ = read(write(tmp_path / "a.tif", wide, **UTM))
    assert np.array_equal(pixels, np.rint(wide / 257).transpose(1, 2, 0))
    Image.fromarray(wide[0]).save(tmp_path / "grey.png")
    assert np.array_equal(pixels[..., 0], np.asarray(read_image(tmp_path / "grey.png", 1)))
    dark = some(3, np.float32, 0.2)
    dark[:, 30, 30] = 0.9  # a part without it is not taken for something else
    path = write(tmp_path / "b.tif", dark, **UTM)
    for part in [(0, 0, 40, 50), (0, 0, 10, 10)]:
        rows, columns = slice(part[2]), slice(part[3])
        pixels, _ = read(path, part=part)
        expected = np.rint(dark[:, rows, columns] * np.float32(255))
        assert np.array_equal(pixels, expected.transpose(1, 2, 0))
    bright = some(3, np.float32, 255)
    pixels, _ = read(write(tmp_path / "c.tif", bright, **UTM), part=(5, 5, 1, 1))
    assert np.array_equal(pixels[0, 0], np.rint(bright[:, 5, 5]))
    with pytest.raises(ValueError, match="complex"):
        read(write(tmp_path / "d.tif", some(1, np.complex64), **UTM))


def test_pixels_without_data(tmp_path):
    bands = some(3, most=200) + 1
    bands[:, 10:20, 5:9] = 0
    bands[0, 30:] = 0  # in one band only: data
    path = write(tmp_path / "a.tif", bands.astype(np.uint8), nodata=0, **UTM)
    _, missing = read(path)
    assert missing[10:20, 5:9].all()
    assert missing.sum() == 40
    assert read(path, part=(0, 0, 5, 5))[1] is None
    alpha = np.concatenate([bands, np.full((1, 40, 50), 255)]).astype(np.uint8)
    alpha[3, :, :2] = 0
    kinds = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
    pixels, missing = read(write(tmp_path / "b.tif", alpha, kinds=kinds, **UTM))
    assert pixels.shape == (40, 50, 3)
    assert missing.sum() == 80
    grey = write(tmp_path / "c.tif", alpha[2:], alpha="YES", **UTM)
    pixels, missing = read(grey)
    assert np.array_equal(pixels[..., 2], alpha[2])
    assert missing.sum() == 80


def test_what_is_a_raster(tmp_path, monkeypatch):
    plain = Image.fromarray(some(3).transpose(1, 2, 0).copy())
    for name in ("a.png", "a.jpg", "a.tif"):
        plain.save(tmp_path / name)
        assert not is_raster(tmp_path / name)
        assert read_scene(str(tmp_path / name), 3).size == (50, 40)
        assert not is_geotagged(tmp_path / name)
    many = tmp_path / "many.tif"
    with rasterio.Env(), pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        write(many, some(7))
    assert is_raster(many)
    assert not is_geotagged(many)
    placed = write(tmp_path / "placed.tif", some(3), **DEGREES)
    assert is_raster(placed)
    assert is_geotagged(placed)
    assert not is_raster(many.with_name("a.tif"))
    with monkeypatch.context() as patch:
        patch.setattr(raster, "LARGE", 1000)
        assert is_raster(tmp_path / "a.tif")
        assert not is_raster(tmp_path / "a.png")
        patch.setattr(raster, "has_rasterio", lambda: False)
        assert not is_raster(placed)
        assert read_scene(str(placed), 3).size == (50, 40)
    (tmp_path / "broken.tif").write_bytes(b"II*\0rubbish")
    assert not is_raster(tmp_path / "broken.tif")
    for name, content in (("address.vrt", b"<VRTDataset/>"), ("empty.tif", b"")):
        (tmp_path / name).write_bytes(content)
        assert not is_raster(tmp_path / name)
    with pytest.raises(OSError, match=r"none\.tif"):
        is_raster(tmp_path / "none.tif")


def test_whole_and_reduced(tmp_path, monkeypatch):
    bands = some(3, shape=(41, 50))
    bands[:] = np.arange(50)
    path = write(tmp_path / "a.tif", bands, **UTM)
    for channels, mode in ((3, "RGB"), (1, "L")):
        with open_scene(str(path), None, channels) as scene:
            assert scene.size == (41, 50)
            assert (scene.picture().mode, scene.picture().size) == (mode, (50, 41))
            small = scene.reduced(4)
            assert (small.mode, small.size) == (mode, (13, 11))
            middle = np.asarray(small)[5].reshape(13, -1)[:, 0]
            assert np.abs(middle[:12] - (np.arange(12) * 4 + 1.5)).max() < 2
            with monkeypatch.context() as patch:
                patch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
                with pytest.raises(ValueError, match=r"50x41 pixels are more .*--full-size"):
                    scene.picture()
    image = Image.fromarray(bands.transpose(1, 2, 0).copy())
    with open_scene("b.png", image, 3) as scene:
        assert np.array_equal(scene.read(3, 4, 5, 6), bands[:, 3:8, 4:10].transpose(1, 2, 0))
        assert scene.missing(0, 0, 9, 9) is None
        assert scene.reduced(4).size == (13, 11)
    with open_scene("b.png", image.convert("L"), 1) as scene:
        assert scene.read(3, 4, 5, 6).shape == (5, 6, 1)


@pytest.mark.parametrize(("place", "area"), [(UTM, 0.125), (DEGREES, None), ({}, None)])
def test_square_metres(place, area, tmp_path):
    path = tmp_path / "a.tif"
    if place:
        write(path, some(5), **place)
    else:
        with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
            write(path, some(5))
    with open_scene(str(path), None, 3) as scene:
        assert scene.pixel_area == area


def test_feet(tmp_path):
    path = write(tmp_path / "a.tif", some(3), **(UTM | {"crs": "EPSG:2263"}))
    with open_scene(str(path), None, 3) as scene:
        assert scene.pixel_area == pytest.approx(0.125 * 0.3048006**2)


def end_early(target, classes):
    with target:
        target.write(0, 0, classes)
        raise KeyError


@pytest.mark.parametrize("number", [3, 255, 300])
def test_maps_keep_the_coordinates(number, tmp_path):
    source = write(tmp_path / "a.tif", some(3, shape=(300, 280)), **UTM)
    colours = np.random.default_rng(0).integers(0, 255, (number, 3), np.uint8)
    classes = np.random.default_rng(1).integers(-1, number, (300, 280)).astype(np.int16)
    names = [f"Straße {i}" for i in range(number)]
    out = tmp_path / "map.tif"
    with open_scene(str(source), None, 3) as scene:
        with ClassRaster(out, scene, colours, names) as target:
            for top, left in [(0, 0), (0, 150), (171, 0), (171, 150)]:
                target.write(top, left, classes[top : top + 171, left : left + 150])
            assert not out.exists()
        with pytest.raises(KeyError):
            end_early(ClassRaster(out, scene, colours, names), classes)
    assert {f.name for f in tmp_path.iterdir()} == {"a.tif", "map.tif"}
    with rasterio.open(out) as found, rasterio.open(source) as like:
        assert (found.crs, found.transform) == (like.crs, like.transform)
        assert found.profile["tiled"]
        assert found.compression.value == "LZW"
        assert found.dtypes == (("uint8" if number < 256 else "uint16"),)
        nothing = 255 if number < 256 else 65535
        assert found.nodata == nothing
        values = found.read(1)
        assert np.array_equal(np.where(values == nothing, -1, values.astype(int)), classes)
        assert found.tags(1)["class_2"] == "Straße 2"
        if number < 256:
            assert found.colormap(1)[2][:3] == tuple(colours[2].tolist())


def test_ground_control_points_are_kept(tmp_path):
    from rasterio.control import GroundControlPoint

    corners = [(0, 0, 10.0, 50.0), (0, 50, 10.1, 50.0), (40, 0, 10.0, 49.9), (40, 50, 10.1, 49.8)]
    points = [GroundControlPoint(row, col, x, y) for row, col, x, y in corners]
    source = write(tmp_path / "a.tif", some(3), gcps=points, crs="EPSG:4326")
    with open_scene(str(source), None, 3) as scene:
        assert scene.pixel_area is None
        with ClassRaster(tmp_path / "b.tif", scene, np.zeros((2, 3), np.uint8), "ab") as target:
            target.write(0, 0, np.zeros((40, 50), np.int16))
    with rasterio.open(tmp_path / "b.tif") as found:
        kept, crs = found.gcps
        assert [(p.row, p.col, p.x, p.y) for p in kept] == corners
        assert crs.to_epsg() == 4326


def write_rows(target, classes):
    with target:
        for top in range(0, len(classes), 100):
            target.write(top, 0, classes[top : top + 100])


def test_a_full_disk_is_noticed(tmp_path):
    source = write(tmp_path / "a.tif", some(3, shape=(1000, 1000)), **UTM)
    classes = np.random.default_rng(0).integers(0, 200, (1000, 1000)).astype(np.int16)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    with open_scene(str(source), None, 3) as scene:
        names = [str(i) for i in range(200)]
        target = ClassRaster(tmp_path / "b.tif", scene, np.zeros((200, 3), np.uint8), names)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, limit[1]))
        try:
            with pytest.raises(OSError, match=r"b\.tif: what was written cannot"):
                write_rows(target, classes)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert [f.name for f in tmp_path.iterdir()] == ["a.tif"]
