"""Predicting classes of pixels: tables, maps, rasters with coordinates, images of any size."""

import csv
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from convnext.cli import main
from convnext.data.config import SegmentationDataConfig
from convnext.models.registry import build_model
from convnext.models.upernet import UPerNet, UPerNetConfig
from convnext.run import segmentation_prediction
from convnext.run.segmentation_loading import load_trained_segmenter
from convnext.run.segmenting import segment_picture
from convnext.weights.preprocessing import SegmenterPreprocessing
from convnext.weights.segmentation import save_segmenter

SHAPE = {"depths": (1, 1, 1, 1), "dims": (8, 8, 8, 8)}
LABELS = ("sky", "road, wet", "木")
CPU = torch.device("cpu")
PLAIN = ["--device", "cpu", "--workers", "0"]


def new_segmenter(in_chans=3, **config):
    body = build_model(
        "convnext_tiny", **SHAPE, in_chans=in_chans, features_only=True, num_classes=0
    )
    config = {"num_classes": len(LABELS), "head_dim": 8, "aux_dim": 8} | config
    config = UPerNetConfig(backbone="convnext_tiny", in_chans=in_chans, **config)
    torch.manual_seed(0)
    network = UPerNet(config, body)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if tensor.ndim >= 2:
                torch.nn.init.kaiming_normal_(tensor)
            elif name.endswith("gamma"):
                tensor.fill_(1)
    return network


def save(folder, network=None, **seen):
    seen = {"min_size": 64, "max_size": 160, "window": 64, "stride": 43} | seen
    network = network or new_segmenter()
    labels = LABELS if network.config.num_classes == 3 else None
    save_segmenter(network, folder, labels=labels, preprocessing=SegmenterPreprocessing(**seen))
    return str(folder)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save(tmp_path_factory.mktemp("weights"))


def picture(height, width):
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(0.11 * y + c) * np.cos(0.07 * x * (c + 1)) for c in range(3)]
    noise = np.random.default_rng(height).normal(0, 20, (height, width, 3))
    return (127 + 100 * np.stack(waves, -1) + noise).clip(0, 255).astype(np.uint8)


def expected(weights, pixels, **changes):
    loaded = load_trained_segmenter(weights, CPU)
    data = SegmentationDataConfig(**{**vars(loaded.data), **changes})
    return segment_picture(loaded.network, Image.fromarray(pixels), data, CPU)


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_table_maps_and_pictures(weights, tmp_path, capsys):
    folder = tmp_path / "images"
    for name, size in {"a/x.png": (90, 120), "b/x.png": (50, 40), "c/x.jpg": (64, 64)}.items():
        (folder / name).parent.mkdir(parents=True)
        Image.fromarray(picture(*size)).save(folder / name, quality=95)
    (folder / "b" / "bad.png").write_bytes(b"nothing")
    out = {name: tmp_path / "out" / name for name in ("areas.csv", "maps", "pictures")}
    out["maps"].parent.mkdir()
    arguments = ["predict", weights, str(folder), *PLAIN, "--csv", str(out["areas.csv"])]
    arguments += ["--masks", str(out["maps"]), "--draw", str(out["pictures"])]
    assert main(arguments) == 1
    said = capsys.readouterr()
    assert "3 images segmented, 1 could not be read" in said.out
    assert "bad.png" in said.err
    names = ["000001_x.png", "000002_x.png", "000003_x.png"]
    for kind in ("maps", "pictures"):
        assert sorted(f.name for f in out[kind].iterdir()) == names
    table = rows(out["areas.csv"])
    assert table[-1]["image"].endswith("bad.png")
    assert table[-1]["error"]
    assert [row["class"] for row in table[:-1]] == list(LABELS) * 3
    for number, name in enumerate(["a/x.png", "b/x.png", "c/x.jpg"]):
        with Image.open(folder / name) as image:
            pixels = np.array(image)
        classes = expected(weights, pixels)
        with Image.open(out["maps"] / names[number]) as image:
            assert np.array_equal(np.array(image), classes)
        with Image.open(out["pictures"] / names[number]) as image:
            assert image.size == pixels.shape[1::-1]
        own = table[3 * number : 3 * number + 3]
        counts = np.bincount(classes.reshape(-1), minlength=3)
        assert [int(row["pixels"]) for row in own] == counts.tolist()
        assert [float(row["share"]) for row in own] == pytest.approx(
            counts / classes.size, abs=1e-6
        )
        assert {row["area_m2"] for row in own} == {""}
    assert len({row["pixels"] for row in table}) > 3


def test_lines(weights, tmp_path, capsys):
    Image.fromarray(picture(90, 120)).save(tmp_path / "a.png")
    assert main(["predict", weights, str(tmp_path / "a.png"), *PLAIN]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "a.png: " in line]
    shares = [float(share) for share in re.findall(r"(\S+) %", line)]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(100, abs=0.3)


def test_every_pixel_through_windows(weights, tmp_path, capsys):
    pixels = picture(150, 200)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(picture(20, 40)).save(tmp_path / "small.png")
    arguments = ["predict", weights, str(tmp_path / "a.png"), str(tmp_path / "small.png"), *PLAIN]
    assert main([*arguments, "--full-size", "--masks", str(tmp_path / "maps")]) == 0
    with Image.open(tmp_path / "maps" / "000001_a.png") as image:
        assert np.array_equal(np.array(image), expected(weights, pixels, min_size=0))
    with Image.open(tmp_path / "maps" / "000002_small.png") as image:
        assert image.size == (40, 20)
    assert main([*arguments, "--full-size", "--tta"]) == 2
    assert "leave one of them" in capsys.readouterr().err


def test_several_views(weights, tmp_path):
    pixels = picture(90, 120)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    arguments = ["predict", weights, str(tmp_path / "a.png"), *PLAIN, "--tta"]
    assert main([*arguments, "--masks", str(tmp_path / "maps")]) == 0
    loaded = load_trained_segmenter(weights, CPU)
    seen = segment_picture(loaded.network, Image.fromarray(pixels), loaded.data, CPU, views=True)
    with Image.open(tmp_path / "maps" / "000001_a.png") as image:
        assert np.array_equal(np.array(image), seen)


def test_images_of_their_own_size_do_not_fill_memory(tmp_path, monkeypatch):
    weights = save(tmp_path / "weights", min_size=0)
    pixels = picture(150, 200)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    monkeypatch.setattr(segmentation_prediction, "LOGIT_BYTES", 1000)
    monkeypatch.setattr(segmentation_prediction, "segment_picture", None)
    arguments = ["predict", weights, str(tmp_path / "a.png"), *PLAIN]
    assert main([*arguments, "--masks", str(tmp_path / "maps")]) == 0
    with Image.open(tmp_path / "maps" / "000001_a.png") as image:
        assert np.array_equal(np.array(image), expected(weights, pixels))


def test_large_pictures(weights, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(segmentation_prediction, "LARGE", 5000)
    monkeypatch.setattr("convnext.run.segmentation_sinks.LARGE", 5000)
    for name in "ab":
        Image.fromarray(picture(151, 203)).save(tmp_path / f"{name}.png")
    arguments = ["predict", weights, *(str(tmp_path / f"{n}.png") for n in "ab"), *PLAIN]
    for more in ([], ["--full-size"]):
        out = tmp_path / f"out{len(more)}"
        assert main([*arguments, "--draw", str(out / "drawn"), *more]) == 0
        assert capsys.readouterr().out.count("--full-size sees every pixel") == 1 - len(more)
        with Image.open(out / "drawn" / "000001_a.png") as image:
            assert image.size == (68, 51)


def write_raster(path, pixels, **profile):
    rasterio = pytest.importorskip("rasterio", reason="the extra convnext[geo] is not installed")
    profile |= {"height": pixels.shape[0], "width": pixels.shape[1], "count": pixels.shape[2]}
    place = rasterio.Affine(2, 0, 500_000, 0, -2, 5_000_000)
    with rasterio.open(
        path, "w", driver="GTiff", dtype="uint8", crs="EPSG:32633", transform=place, **profile
    ) as file:
        file.write(pixels.transpose(2, 0, 1))
    return rasterio


@pytest.mark.parametrize("full_size", [False, True])
def test_coordinates_are_kept(weights, tmp_path, full_size):
    pixels = np.maximum(picture(150, 200), 1)
    pixels[:40, :30] = 0
    rasterio = write_raster(tmp_path / "field.tif", pixels, nodata=0)
    arguments = ["predict", weights, str(tmp_path / "field.tif"), *PLAIN]
    arguments += ["--csv", str(tmp_path / "areas.csv"), "--masks", str(tmp_path / "maps")]
    arguments += ["--draw", str(tmp_path / "drawn"), *(["--full-size"] if full_size else [])]
    assert main(arguments) == 0
    classes = expected(weights, pixels, **({"min_size": 0} if full_size else {}))
    classes[:40, :30] = -1
    with rasterio.open(tmp_path / "maps" / "000001_field.tif") as found:
        assert found.crs.to_epsg() == 32633
        assert (found.transform.a, found.transform.c) == (2, 500_000)
        values = found.read(1).astype(np.int16)
        assert np.array_equal(np.where(values == 255, -1, values), classes)
    with Image.open(tmp_path / "drawn" / "000001_field.png") as image:
        assert image.size == (200, 150)
    table = rows(tmp_path / "areas.csv")
    counts = np.bincount(classes[classes >= 0], minlength=3)
    assert [int(row["pixels"]) for row in table] == counts.tolist()
    assert [float(row["area_m2"]) for row in table] == (counts * 4.0).tolist()
    assert sum(float(row["share"]) for row in table) == pytest.approx(1, abs=1e-5)


def test_damaged_rasters_leave_nothing(weights, tmp_path, capsys):
    write_raster(tmp_path / "good.tif", picture(100, 120))
    content = (tmp_path / "good.tif").read_bytes()
    (tmp_path / "bad.tif").write_bytes(content[: len(content) // 2])
    files = [str(tmp_path / name) for name in ("bad.tif", "good.tif")]
    arguments = ["predict", weights, *files, *PLAIN, "--masks", str(tmp_path / "maps")]
    assert main([*arguments, "--full-size", "--csv", str(tmp_path / "areas.csv")]) == 1
    said = capsys.readouterr()
    assert "1 images segmented, 1 could not be read" in said.out
    assert "bad.tif: damaged image" in said.err
    assert [f.name for f in (tmp_path / "maps").iterdir()] == ["000001_good.tif"]
    assert [row["error"] != "" for row in rows(tmp_path / "areas.csv")] == [False] * 3 + [True]


def test_without_rasterio(weights, tmp_path, capsys, monkeypatch):
    for name in "ab":
        write_raster(tmp_path / f"{name}.tif", picture(100, 120))
    for module in ("convnext.run.segmentation_prediction", "convnext.data.segmentation.raster"):
        monkeypatch.setattr(f"{module}.has_rasterio", lambda: False)
    arguments = ["predict", weights, *(str(tmp_path / f"{n}.tif") for n in "ab"), *PLAIN]
    assert main([*arguments, "--masks", str(tmp_path / "maps")]) == 0
    assert capsys.readouterr().out.count("pip install 'convnext[geo]'") == 1
    names = sorted(f.name for f in (tmp_path / "maps").iterdir())
    assert names == ["000001_a.png", "000002_b.png"]


def test_grey(tmp_path):
    weights = save(tmp_path / "weights", new_segmenter(1), mean=(0.4,), std=(0.3,))
    Image.fromarray(picture(90, 120)).save(tmp_path / "a.png")
    write_raster(tmp_path / "b.tif", picture(90, 120))
    arguments = ["predict", weights, str(tmp_path / "a.png"), str(tmp_path / "b.tif"), *PLAIN]
    arguments += ["--draw", str(tmp_path / "drawn"), "--masks", str(tmp_path / "maps")]
    assert main(arguments) == 0
    maps = [np.array(Image.open(file)) for file in sorted((tmp_path / "maps").iterdir())]
    assert np.array_equal(*maps)
    assert len(list((tmp_path / "drawn").iterdir())) == 2


def test_files_are_read_by_processes(weights, tmp_path, capsys):
    for number in range(3):
        Image.fromarray(picture(64, 70 + number)).save(tmp_path / f"{number}.png")
    write_raster(tmp_path / "9.tif", picture(64, 90))
    arguments = ["predict", weights, str(tmp_path), "--device", "cpu", "--workers", "1"]
    for _ in range(2):  # maps below the images are no images
        assert main([*arguments, "--masks", str(tmp_path / "maps")]) == 0
        assert "4 images segmented" in capsys.readouterr().out
    assert sorted(f.suffix for f in (tmp_path / "maps").iterdir()) == [".png"] * 3 + [".tif"]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--json", "x.json"], "--json is not for segmentation networks"),
        (["--cam", "x"], "--cam is not for segmentation networks"),
        (["--threshold", "0.1"], "--threshold is not for segmentation networks"),
    ],
)
def test_refuses(weights, options, complaint, tmp_path, capsys):
    Image.fromarray(picture(64, 64)).save(tmp_path / "a.png")
    assert main(["predict", weights, str(tmp_path), *options]) == 2
    assert complaint in capsys.readouterr().err
    (tmp_path / "a.png").unlink()
    assert main(["predict", weights, str(tmp_path), *PLAIN]) == 2
    assert "no image found" in capsys.readouterr().err


MEASURE = """
import json, resource, sys
from convnext.cli import main
status = main(sys.argv[1:])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10  # MiB
print(json.dumps({"status": status, "peak": peak}))
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_image(tmp_path):
    weights = save(tmp_path / "weights", new_segmenter(num_classes=100), window=256, stride=256)
    peaks = []
    for side in (1024, 2560):
        pixels = np.tile(picture(512, 512), (side // 512, side // 512, 1))
        write_raster(tmp_path / "a.tif", pixels, tiled=True, compress="LZW")
        arguments = ["predict", weights, str(tmp_path / "a.tif"), *PLAIN, "--full-size"]
        arguments += ["--masks", str(tmp_path / "maps"), "--draw", str(tmp_path / "drawn")]
        command = [sys.executable, "-c", MEASURE, *arguments]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        ran = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200)
        found = json.loads(ran.stdout.splitlines()[-1])
        assert found["status"] == 0, ran.stderr
        peaks.append(found["peak"])
    # Of the large one the logits alone would have 2.4 GiB.
    assert peaks[1] - peaks[0] < 700
    assert (tmp_path / "maps" / "000001_a.tif").stat().st_size > 0
