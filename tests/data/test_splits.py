"""Folders, tables, shards, Hugging Face sets and the solar cells as train, val and test."""

import hashlib
import io
import json
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest

from convnext.data import (
    DataConfig,
    check_images,
    open_for_evaluation,
    open_splits,
    read_image,
    summarise,
)
from convnext.data.source import PackedStrings
from convnext.data.stratify import stratified_split


def keys(source):
    return {source.key(i) for i in range(len(source))}


def write_csv(path, lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_tar(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def png(picture):
    def make(seed):
        buffer = io.BytesIO()
        picture(seed, 20, 20).save(buffer, "PNG")
        return buffer.getvalue()

    return make


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val"])
def test_split_folders(make_folder, val):
    root = make_folder({"train/b": 3, "train/a": 2, f"{val}/a": 1, f"{val}/b": 1, "test/b": 2})
    splits = open_splits(DataConfig(path=str(root)))
    assert splits.classes == ("a", "b")
    assert splits.train.labels.tolist() == [0, 0, 1, 1, 1]
    assert splits.val.labels.tolist() == [0, 1]
    assert splits.test.labels.tolist() == [1, 1]
    assert splits.train.key(2) == "b/000.png"
    assert splits.train.name(2) == str(root / "train/b/000.png")
    assert splits.train.open(2) == (root / "train/b/000.png").read_bytes()


def test_one_folder_is_split_by_class_and_seed(make_folder):
    root = make_folder({"a": 20, "b": 10})
    config = DataConfig(path=str(root), val_fraction=0.2, test_fraction=0.1)
    splits = open_splits(config)
    counts = {n: np.bincount(s.labels).tolist() for n, s in splits.named().items()}
    assert counts == {"train": [14, 7], "val": [4, 2], "test": [2, 1]}
    parts = [keys(source) for source in splits.named().values()]
    assert len(set().union(*parts)) == 30  # disjoint and complete
    again = open_splits(config)
    assert [keys(s) for s in again.named().values()] == parts
    other = open_splits(DataConfig(path=str(root), val_fraction=0.2, split_seed=1))
    assert keys(other.val) != parts[1]
    root.rename(root.with_name("moved"))
    moved = open_splits(
        DataConfig(path=str(root.with_name("moved")), val_fraction=0.2, test_fraction=0.1)
    )
    assert [keys(s) for s in moved.named().values()] == parts


def test_new_images_move_few_between_the_parts():
    names = [f"{i}.jpg" for i in range(1000)]
    before = stratified_split(names, [0] * 1000, (0.2,), 0)
    after = stratified_split([*names, "new.jpg"], [0] * 1001, (0.2,), 0)
    assert (before != after[:-1]).sum() <= 1
    assert before.sum() == 200


def test_a_class_of_one_image_stays_in_train():
    assert stratified_split(["x", "y", "z"], ["a", "b", "b"], (0.2, 0.2), 0).tolist()[0] == 0
    assert sorted(stratified_split(["y", "z"], ["b", "b"], (0.2, 0.2), 0).tolist()) == [0, 1]


def test_classes_that_are_called_train_and_test(make_folder):
    root = make_folder({"train": 5, "bus": 5, "test": 5})
    assert open_splits(DataConfig(path=str(root))).classes == ("bus", "test", "train")


def test_names_links_and_hidden_files(make_folder, picture):
    root = make_folder({"猫 chat": 3, "dog": 3}, suffix=".JPEG")
    (root / "dog" / "deeper" / "still").mkdir(parents=True)
    picture(50).save(root / "dog" / "deeper" / "still" / "x y.PNG")
    (root / "dog" / "loop").symlink_to(root)
    (root / "dog" / "deeper" / "self").symlink_to(root / "dog" / "deeper")
    (root / ".ipynb_checkpoints").mkdir()
    (root / "dog" / "._000.JPEG").write_bytes(b"mac")
    (root / "dog" / "notes.txt").write_text("no image")
    splits = open_splits(DataConfig(path=str(root), val_fraction=0.0))
    assert splits.classes == ("dog", "猫 chat")
    assert np.bincount(splits.train.labels).tolist() == [4, 3]
    assert splits.val is None
    for i in range(len(splits.train)):
        assert read_image(splits.train.open(i)).size == (40, 36)


def test_a_name_that_is_not_utf8(make_folder):
    root = make_folder({"a": 2, "b": 2})
    os.rename(root / "a" / "000.png", os.fsencode(root / "a") + b"/caf\xe9.png")  # noqa: PTH104
    source = open_splits(DataConfig(path=str(root), val_fraction=0.0)).train
    (place,) = [i for i in range(4) if "caf" in source.name(i)]
    assert source.name(place).endswith("caf\\xe9.png")
    source.name(place).encode()  # printable anywhere
    assert len(source.open(place)) > 0


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"a": 2, "b": 0}, r"class folder 'b' holds no images"),
        ({"a": 4}, r"only one class \('a'\)"),
        ({"a": 0, "b": 0}, r"no images found in its 2 folders \(a, b\)"),
        ({}, r"no class folders in it \(0 images"),
        (
            {"train/a": 1, "train/b": 1, "val/a": 1, "val/c": 1},
            r"the val split has classes that the training split lacks: 'c'; training has 'a', 'b'",
        ),
        ({"val/a": 1, "test/b": 1}, r"no training images; found only: test, val"),
        (
            {"train/a": 1, "train/b": 1, "val/a": 1, "valid/a": 1},
            r"both '\w+' and '\w+' look like the val split",
        ),
    ],
)
def test_folders_that_cannot_be_trained_on(make_folder, tmp_path, counts, message):
    (tmp_path / "set").mkdir()
    root = make_folder(counts)
    with pytest.raises(ValueError, match=message) as caught:
        open_splits(DataConfig(path=str(root)))
    assert "\n" not in str(caught.value)
    assert str(root) in str(caught.value)


def test_paths_that_are_not_data(tmp_path, make_folder):
    (tmp_path / "set.zip").write_bytes(b"PK")
    (tmp_path / "a.jpg").write_bytes(b"x")
    for path, message in (
        ("", "no data given"),
        (tmp_path / "gone", r"gone: no such file or folder"),
        (tmp_path / "set.zip", r"set\.zip: a compressed archive; unpack it"),
        (tmp_path / "a.jpg", r"a\.jpg: not a folder, a table"),
        (f"{tmp_path}/*.tar", r"no file matches"),
    ):
        with pytest.raises(ValueError, match=message):
            open_splits(DataConfig(path=str(path)))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_without_permission(make_folder):
    root = make_folder({"a": 1, "b": 1})
    (root / "a").chmod(0)
    with pytest.raises(PermissionError, match="/a"):
        open_splits(DataConfig(path=str(root)))


def test_csv_with_split_column(make_folder, tmp_path):
    root = make_folder({"a": 4, "b": 2}, name="img")
    lines = ["Filename;class;split"]
    lines += [f"img/a/{i:03d}.png;cat;{'train' if i < 3 else 'validation'}" for i in range(4)]
    lines += [f"{root}/b/{i:03d}.png;dog, big;train" for i in range(2)]
    splits = open_splits(DataConfig(path=str(write_csv(tmp_path / "t.csv", lines))))
    assert splits.classes == ("cat", "dog, big")
    assert splits.train.labels.tolist() == [0, 0, 0, 1, 1]
    assert splits.val.labels.tolist() == [0]
    assert splits.test is None
    assert splits.train.open(4) == (root / "b/001.png").read_bytes()


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_sibling_tables_and_numbers(make_folder, tmp_path, suffix):
    root = make_folder({"x": 4}, name="img")
    tables = {"train": [10, 9, 10], "test": [9]}
    for split, labels in tables.items():
        rows = [(f"img/x/{i:03d}.png", label) for i, label in enumerate(labels)]
        if suffix == ".csv":
            write_csv(tmp_path / f"{split}.csv", ["path,label", *(f"{p},{n}" for p, n in rows)])
        else:
            pandas = pytest.importorskip("pandas")
            frame = pandas.DataFrame(rows, columns=["path", "label"])
            frame.to_parquet(tmp_path / f"{split}.parquet")
    splits = open_splits(DataConfig(path=str(tmp_path / f"train{suffix}"), val_fraction=0.0))
    assert splits.classes == ("9", "10")  # by number, not by text
    assert splits.train.labels.tolist() == [1, 0, 1]
    assert splits.test.labels.tolist() == [0]
    assert splits.test.name(0) == str(root / "x/000.png")
    assert open_splits(DataConfig(path=str(tmp_path), val_fraction=0.0)).classes == ("9", "10")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["file_id,kind", "a,b"], r"needs the columns 'path' and 'label'.*found: file_id, kind"),
        (["path,label", "a.png,"], r"row 2: the label is empty"),
        (["path,label", "a.png"], r"row 2: 1 values for 2 columns"),
        (["path,label"], r"no images found, the table has no rows"),
        (["path,label", "a.png,-1", "b.png,0"], r"label -1 is out of range: labels start at 0"),
        (["path,label,split", "a.png,0,holdout"], r"split 'holdout' is none of"),
        (["path,label,split", "a,0,train", "b,1,train", "c,2,val"], r"training split lacks: '2'"),
    ],
)
def test_tables_with_mistakes(tmp_path, lines, message):
    with pytest.raises(ValueError, match=message):
        open_splits(DataConfig(path=str(write_csv(tmp_path / "t.csv", lines))))


def test_class_names_beside_a_table(tmp_path):
    path = write_csv(tmp_path / "t.csv", ["path,label", "a.png,1", "b.png,cat"])
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    splits = open_splits(DataConfig(path=str(path), val_fraction=0.0))
    assert (splits.classes, splits.train.labels.tolist()) == (("cat", "dog"), [1, 0])
    write_csv(path, ["path,label", "a.png,2", "b.png,cat"])
    with pytest.raises(ValueError, match=r"label 2 is out of range 0\.\.1"):
        open_splits(DataConfig(path=str(path)))
    path.write_bytes(b"path,label\n\xff\xfe,1\n")
    with pytest.raises(ValueError, match=r"t\.csv: not a CSV text in UTF-8"):
        open_splits(DataConfig(path=str(path)))
    bad = tmp_path / "t.parquet"
    bad.write_bytes(b"no parquet")
    with pytest.raises(ValueError, match=r"t\.parquet: not a parquet file"):
        open_splits(DataConfig(path=str(bad)))


def test_shards(tmp_path, png):
    """Numbers in .cls, a name in .json, extra members ignored; read by offset, from any process."""
    for shard in range(2):
        files = {}
        for i in range(4):
            files[f"./{shard}{i}.png"] = png(10 * shard + i)
            files[f"./{shard}{i}.mask.png"] = png(99)
            files[f"./{shard}{i}.cls"] = str(i % 2).encode()
        write_tar(tmp_path / f"set-train-{shard:04d}.tar", files)
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    data = json.dumps({"label": "dog", "caption": "x"}).encode()
    write_tar(tmp_path / "set-val-0000.tar", {"v.json": data, "v.jpg": png(77)})
    for path in (tmp_path, f"{tmp_path}/set-*.tar"):
        splits = open_splits(DataConfig(path=str(path)))
        assert splits.classes == ("cat", "dog")
        assert splits.train.labels.tolist() == [0, 1] * 4
        assert splits.train.open(5) == png(11)
        assert splits.train.subset(np.array([6, 1])).open(0) == png(12)
        assert pickle.loads(pickle.dumps(splits.train)).open(7) == png(13)  # noqa: S301
        assert splits.val.labels.tolist() == [1]
        assert splits.val.open(0) == png(77)
        assert splits.train.name(5).endswith("set-train-0001.tar/./11.png")


def test_shards_of_class_folders_in_split_folders(tmp_path, png):
    def shard(seed):
        return {"a/x.1.png": png(seed), "a/x.2.png": png(seed + 1), "b/y.png": png(seed + 2)}

    write_tar(tmp_path / "train" / "0.tar", shard(0))
    write_tar(tmp_path / "val" / "0.tar", shard(10))
    splits = open_splits(DataConfig(path=str(tmp_path)))
    assert (splits.classes, len(splits.train), len(splits.val)) == (("a", "b"), 3, 3)
    assert {splits.train.open(i) for i in range(3)} == {png(0), png(1), png(2)}


def test_member_names_reach_no_file(tmp_path, png):
    """Names with .. or a leading slash are names only; links in a shard are left out."""
    path = write_tar(tmp_path / "x.tar", {"../../etc/a/1.png": png(0), "/abs/b/2.png": png(1)})
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("b/3.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    splits = open_splits(DataConfig(path=str(path), val_fraction=0.0))
    assert splits.classes == ("a", "b")
    assert [splits.train.open(i) for i in range(2)] == [png(0), png(1)]


def test_damaged_shards_are_named(tmp_path, png):
    whole = write_tar(tmp_path / "x.tar", {f"{c}/{i}.png": png(i) for c in "ab" for i in range(3)})
    data = whole.read_bytes()
    with tarfile.open(whole) as tar:
        ends = [member.offset for member in tar]
    for cut in (0, 100, ends[3] + 700, ends[3], ends[3] + 100):
        whole.write_bytes(data[:cut])
        with pytest.raises(ValueError, match=r"x\.tar: .*(truncated|empty)"):
            open_splits(DataConfig(path=str(whole)))
    write_tar(whole, {"1.png": png(1)})
    with pytest.raises(ValueError, match=r"sample '1\.png' has no label"):
        open_splits(DataConfig(path=str(whole)))
    write_tar(whole, {"1.txt": b"hello"})
    with pytest.raises(ValueError, match=r"no images found in 1 tar shards"):
        open_splits(DataConfig(path=str(whole)))


def test_shard_index_is_cached_until_the_shard_changes(tmp_path, png, monkeypatch):
    path = write_tar(tmp_path / "x.tar", {"a/1.png": png(1), "b/1.png": png(2)})
    config = DataConfig(path=str(path), val_fraction=0.0)
    open_splits(config)
    with monkeypatch.context() as patch:
        patch.setattr(tarfile, "open", lambda *_: pytest.fail("indexed again"))
        assert open_splits(config).train.open(1) == png(2)
    write_tar(path, {"a/1.png": png(3), "c/1.png": png(4), "c/2.png": png(5)})
    assert open_splits(config).classes == ("a", "c")


def test_hugging_face(tmp_path, picture):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )

    def part(seeds):
        rows = {"image": [picture(seed) for seed in seeds], "label": [s % 2 for s in seeds]}
        return datasets.Dataset.from_dict(rows, features=features)

    both = datasets.DatasetDict({"train": part(range(6)), "validation": part(range(6, 8))})
    both.save_to_disk(str(tmp_path / "both"))
    splits = open_splits(DataConfig(path=f"hf:{tmp_path}/both"))
    assert splits.classes == ("cat", "dog")
    assert splits.train.labels.tolist() == [0, 1] * 3
    assert np.array_equal(np.asarray(read_image(splits.val.open(1))), np.asarray(picture(7)))
    part(range(10)).save_to_disk(str(tmp_path / "one"))
    splits = open_splits(DataConfig(path=f"hf:{tmp_path}/one", val_fraction=0.2))
    assert (len(splits.train), len(splits.val)) == (8, 2)
    rows = {"image": [picture(seed) for seed in range(3)], "label": [0, None, 1]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "gaps"))
    with pytest.raises(ValueError, match=r"1 images of the all split have no label, the first: hf"):
        open_splits(DataConfig(path=f"hf:{tmp_path}/gaps"))
    with pytest.raises(ValueError, match=r"nothing to measure, hf:\S+\[1\] has no label"):
        open_for_evaluation(DataConfig(path=f"hf:{tmp_path}/gaps"))
    part(range(3)).rename_column("label", "kind").cast_column(
        "kind", datasets.Value("int64")
    ).save_to_disk(str(tmp_path / "bad"))
    with pytest.raises(ValueError, match="needs an image and a label column; found: image"):
        open_splits(DataConfig(path=f"hf:{tmp_path}/bad"))


def test_solar_cells_are_split_as_documented():
    pytest.importorskip("elpv_dataset")
    splits = open_splits(DataConfig(path="elpv", split_seed=5, val_fraction=0.5))
    assert splits.classes == ("functional", "defective")
    counts = {n: np.bincount(s.labels).tolist() for n, s in splits.named().items()}
    assert counts == {"train": [1082, 494], "val": [271, 123], "test": [450, 204]}
    parts = [keys(source) for source in splits.named().values()]
    assert len(set().union(*parts)) == 2624
    # The split is part of every published score: it must never change.
    digest = hashlib.sha256("\n".join(sorted(parts[2])).encode()).hexdigest()
    assert digest[:16] == "be9341a58d32f92b"
    summary = summarise(splits, DataConfig(path="elpv"))
    assert (summary.median_width, summary.median_height, summary.grey) == (300, 300, True)
    assert summary.class_counts == (1082, 494)


def test_solar_cells_without_the_package(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install elpv-dataset"):
        open_splits(DataConfig(path="elpv"))


def test_evaluation_uses_the_classes_of_the_model(make_folder, tmp_path):
    root = make_folder({"dog": 2, "cat": 1})
    config = DataConfig(path=str(root))
    source, classes, split = open_for_evaluation(config, classes=("ant", "cat", "dog"))
    assert (source.labels.tolist(), len(classes), split) == ([1, 2, 2], 3, "all")
    with pytest.raises(ValueError, match=r"'dog' not among the 2 classes of the model"):
        open_for_evaluation(config, classes=("ant", "cat"))
    with pytest.raises(ValueError, match=r"no split 'val'; found: all"):
        open_for_evaluation(config, "val")
    numbers = write_csv(tmp_path / "t.csv", ["path,label", "a.png,2", "b.png,0"])
    config = DataConfig(path=str(numbers))
    source, _, _ = open_for_evaluation(config, classes=("ant", "cat", "dog"))
    assert source.labels.tolist() == [2, 0]
    with pytest.raises(ValueError, match=r"'2' not among the 2 classes"):
        open_for_evaluation(config, classes=("ant", "cat"))


def test_unreadable_images_stop_or_are_skipped(make_folder, capsys):
    root = make_folder({"train/a": 40, "train/b": 3, "val/a": 1, "val/b": 1})
    (root / "train/a/005.png").write_bytes(b"")
    (root / "train/a/006.png").write_text("not an image")
    whole = (root / "val/b/000.png").read_bytes()
    (root / "val/b/000.png").write_bytes(whole[:-40])
    config = DataConfig(path=str(root))
    splits = open_splits(config)
    for _ in range(2):  # read, then from the cache
        with pytest.raises(ValueError, match=r"^3 unreadable images: .*train/a/005.*006.*val/b"):
            check_images(splits, config)
    skip = DataConfig(path=str(root), on_bad_image="skip")
    kept = check_images(open_splits(skip), skip)
    assert (len(kept.train), len(kept.val), len(kept.skipped)) == (41, 1, 3)
    assert not keys(kept.train) & {"a/005.png", "a/006.png"}
    (root / "val/b/000.png").write_bytes(whole)  # repaired: the cached verdict no longer counts
    assert len(check_images(open_splits(skip), skip).val) == 2
    for i in range(3):
        (root / f"train/b/{i:03d}.png").write_bytes(b"x")
    with pytest.raises(ValueError, match="class 'b': no readable training image"):
        check_images(open_splits(skip), skip)


def test_a_table_row_without_file_is_named_before_training(make_folder, tmp_path):
    make_folder({"a": 2}, name="img")
    lines = ["path,label", "img/a/000.png,0", "img/a/001.png,1", "img/a/gone.png,1"]
    config = DataConfig(path=str(write_csv(tmp_path / "t.csv", lines)), val_fraction=0.0)
    with pytest.raises(ValueError, match=r"gone\.png: cannot be read \(No such file"):
        check_images(open_splits(config), config)


def test_packed_strings_round_trip():
    texts = ["", "a", "猫/x y.jpg", "caf\udce9", ""]
    packed = PackedStrings(texts)
    assert list(packed) == texts
    assert Path(packed[2]).name == "x y.jpg"
