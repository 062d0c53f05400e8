"""`convnext analyse` on a small trained network."""

import json

import pytest
from PIL import Image

from convnext.cli import main


def test_a_run_is_looked_into(run, images, tmp_path, capsys):
    out = tmp_path / "分析"
    arguments = ["analyse", str(run), "--data", str(images / "val"), "--out", str(out)]
    arguments += ["--images", "5", "--receptive-size", "96", "--workers", "0", "--device", "cpu"]
    assert main(arguments) == 0
    result = json.loads((out / "analysis.json").read_text())
    assert result["images"] == 5
    found = result["networks"]["run"]
    areas = [a["ratio"] for a in found["receptive_field"]["areas"].values() if a["ratio"]]
    assert areas == sorted(areas)
    assert 0 < areas[0] <= 1
    assert [layer["channels"] for layer in found["diversity"]] == [32, 48, 64, 96]
    with Image.open(out / "receptive_field.png") as picture:
        assert picture.size == (96, 96)
    names = sorted(p.name for p in (out / "maps").iterdir())
    assert len(names) == 4 * 5
    assert names[:2] == ["01_image.png", "01_stage1.png"]
    assert "distance" in (out / "diversity.svg").read_text()


def test_networks_side_by_side(run, images, tmp_path):
    out = tmp_path / "out"
    arguments = ["analyse", str(run), str(run / "weights"), "--data", str(images / "test")]
    arguments += ["--out", str(out), "--images", "2", "--what", "diversity", "--workers", "0"]
    assert main(arguments) == 0
    networks = json.loads((out / "analysis.json").read_text())["networks"]
    assert list(networks) == ["run", "run_"]
    assert networks["run"]["diversity"] == networks["run_"]["diversity"]
    assert not list(out.rglob("*.png"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--images", "0"], "num_images is 0"),
        (["--data", "nowhere"], "nowhere: no such file"),
        (["--what", "colours"], "colours"),
    ],
)
def test_mistakes(more, message, run, images, tmp_path, capsys):
    arguments = ["analyse", str(run), "--data", str(images), "--out", str(tmp_path / "out")]
    assert main([*arguments, *more]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_unreadable_image_is_named(run, images, tmp_path, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "broken.png").write_bytes(b"no picture")
    arguments = ["analyse", str(run), "--data", str(folder), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--workers", "0", "--what", "diversity"]) == 2
    assert "broken.png" in capsys.readouterr().err
