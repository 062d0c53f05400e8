"""Reading files that are damaged, wrong or malicious: one readable message, and no code runs."""

import argparse
import json
import os
import pickle
import zipfile
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file

from convnext.models.registry import build_model
from convnext.weights.checkpoint import read_checkpoint
from convnext.weights.reading import read_file
from convnext.weights.unwrapping import unwrap

TINY = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32), "num_classes": 3}


@pytest.fixture(scope="module")
def state():
    return dict(build_model("convnext_tiny", **TINY).state_dict())


@pytest.mark.parametrize("legacy", [False, True])
def test_pytorch_files_of_both_formats(state, tmp_path, legacy):
    torch.save(state, tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
    content, metadata = read_file(tmp_path / "a.pth")
    assert all(torch.equal(content[name], state[name]) for name in state)
    assert metadata == {}


def test_a_safetensors_file_is_told_from_a_pickle(tmp_path):
    """The length at its start may begin with the byte that pickles begin with."""
    first = set()
    for padding in range(32):
        metadata = {"note": "x" * (8 * padding)}
        save_file({"a": torch.zeros(1)}, tmp_path / "a.pth", metadata)
        assert read_file(tmp_path / "a.pth")[1] == metadata
        first.add((tmp_path / "a.pth").read_bytes()[0])
    assert 0x80 in first


def test_safetensors_file_with_any_ending(state, tmp_path):
    save_file(state, tmp_path / "a.bin", {"format": "pt"})
    content, metadata = read_file(tmp_path / "a.bin")
    assert all(torch.equal(content[name], state[name]) for name in state)
    assert metadata == {"format": "pt"}


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("form", ["zip", "legacy", "plain_pickle"])
def test_a_malicious_pickle_is_refused_and_does_not_run(form, state, tmp_path):
    path, trace = tmp_path / "evil.pth", tmp_path / "it_ran"
    content = {"epoch": Malicious(trace), "model": state}
    if form == "plain_pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(ValueError, match=r"evil\.pth: refused, because the pickle holds more") as e:
        read_checkpoint(path)
    assert "system" in str(e.value)
    assert "\n" not in str(e.value)
    assert not trace.exists()


def test_a_pickled_network_is_refused_and_the_remedy_said(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "net.pt")
    with pytest.raises(ValueError, match=r"torch\.nn.*Linear.* save only its state_dict"):
        read_file(tmp_path / "net.pt")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_torchscript_program_is_refused(tmp_path):
    torch.jit.save(torch.jit.trace(torch.nn.ReLU(), torch.zeros(1)), tmp_path / "a.pt")
    with pytest.raises(ValueError, match="TorchScript program"):
        read_file(tmp_path / "a.pt")


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("keep", [0.01, 0.5, 0.98])
def test_truncated_files(form, keep, state, tmp_path):
    path = tmp_path / "cut.ckpt"
    if form == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(ValueError, match=r"cut\.ckpt.*(truncated|neither)") as error:
        read_checkpoint(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"<!DOCTYPE html><html>", "it is a web page"),
        (b"  <html>", "it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "git lfs pull"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 64, "neither a safetensors nor a PyTorch file"),
        (b"hello", "neither a safetensors nor a PyTorch file"),
        ((90).to_bytes(8, "little") + b"{" + b"x" * 100, "damaged or truncated safetensors"),
        (b"\x80\x02" + b"\xff" * 50, "it is damaged, or a pickle that is no PyTorch checkpoint"),
        (pickle.dumps({"a": [1]}, protocol=5), "it is damaged, or a pickle that is no PyTorch"),
        (b"PK\x03\x04" + b"\0" * 90, "damaged or truncated"),
    ],
    ids=range(10),
)
def test_files_that_are_no_checkpoints(data, message, tmp_path):
    path = tmp_path / "thing.pth"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"thing\.pth.*{message}"):
        read_checkpoint(path)


def test_missing_file_and_folder_without_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.pth: no such file"):
        read_checkpoint(tmp_path / "nothing.pth")
    with pytest.raises(FileNotFoundError, match=r"holds no model\.safetensors or pytorch_model"):
        read_checkpoint(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(state, tmp_path):
    path = tmp_path / "a.pth"
    torch.save(state, path)
    path.chmod(0)
    with pytest.raises(PermissionError, match=r"a\.pth: no permission to read it"):
        read_file(path)


def test_a_tensor_of_absurd_size_is_refused_before_it_is_copied(state, tmp_path):
    huge = torch.zeros(1).expand(1 << 40)  # four bytes in the file, four terabytes when copied
    torch.save(state | {"head.bias": huge}, tmp_path / "huge.pth")
    with pytest.raises(ValueError, match=r"huge\.pth: tensor head\.bias claims shape .*exhaust"):
        read_checkpoint(tmp_path / "huge.pth")


def test_a_tensor_without_values_is_refused(state, tmp_path):
    torch.save(state | {"head.bias": torch.zeros(3, device="meta")}, tmp_path / "meta.pth")
    with pytest.raises(ValueError, match=r"meta\.pth: tensor head\.bias .*more than the 0 bytes"):
        read_checkpoint(tmp_path / "meta.pth")


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", b"\0" * (64 << 20))
    with pytest.raises(ValueError, match=r"bomb\.pth has \d+ bytes but would unpack to 67108864"):
        read_file(path)


def test_a_safetensors_header_that_lies_about_sizes(tmp_path):
    header = {"head.weight": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}
    text = json.dumps(header).encode()
    (tmp_path / "lie.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(ValueError, match=r"lie\.safetensors is a damaged or truncated"):
        read_file(tmp_path / "lie.safetensors")


# What training programs wrap around a state dict -> what must be found in it.
def wrap_prefix(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


WRAPPED = {
    "official_release": (lambda s: {"model": s}, ("model",)),
    "official_run": (
        lambda s: {
            "model": {k: v + 1 for k, v in s.items()},
            "model_ema": s,
            "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 1}]},
            "epoch": 3,
            "scaler": {"scale": 65536.0},
            "args": argparse.Namespace(lr=4e-3, model="convnext_tiny"),
        },
        ("model_ema",),
    ),
    "official_run_without_ema": (lambda s: {"model": s, "model_ema": None, "epoch": 3}, ("model",)),
    "timm_run": (
        lambda s: {
            "state_dict": {k: v + 1 for k, v in s.items()},
            "state_dict_ema": s,
            "arch": "convnext_tiny",
            "metric": 81.0,
        },
        ("state_dict_ema",),
    ),
    "own_run": (
        lambda s: {
            "format": 1,
            "step": 10,
            "best": None,
            "losses": {"sum": torch.zeros(1)},
            "task": wrap_prefix({k: v + 1 for k, v in s.items()}, "network."),
            "ema": wrap_prefix(s, "network."),
            "optimizer": {"network.head.bias": {"exp_avg": torch.zeros(2)}},
            "scaler": None,
        },
        ("ema", "network."),
    ),
    "own_run_without_ema": (
        lambda s: {"task": wrap_prefix(s, "network."), "ema": None, "step": 10},
        ("task", "network."),
    ),
    "bare_network_and_ema": (lambda s: {"network": s, "ema": {}, "step": 1}, ("network",)),
    "ddp": (lambda s: wrap_prefix(s, "module."), ("module.",)),
    "compiled": (lambda s: wrap_prefix(s, "_orig_mod."), ("_orig_mod.",)),
    "ddp_of_compiled": (
        lambda s: {"state_dict": OrderedDict(wrap_prefix(s, "module._orig_mod."))},
        ("state_dict", "_orig_mod.", "module."),
    ),
    "compiled_blocks": (
        lambda s: {k.replace("blocks.0.", "blocks.0._orig_mod."): v for k, v in s.items()},
        ("_orig_mod.",),
    ),
    "averaged_model": (
        lambda s: {"n_averaged": torch.tensor(3), **wrap_prefix(s, "module.")},
        ("module.",),
    ),
    "lightning": (
        lambda s: {"state_dict": wrap_prefix(s, "model."), "hyper_parameters": {"lr": 1}},
        ("state_dict", "model."),
    ),
}


@pytest.mark.parametrize("case", WRAPPED)
def test_wrappers_are_taken_off(case, state, tmp_path):
    wrap, wrappers = WRAPPED[case]
    torch.save(wrap(state), tmp_path / "a.pth")
    checkpoint = read_checkpoint(tmp_path / "a.pth")
    assert checkpoint.wrappers == wrappers
    assert set(checkpoint.state) == set(state)
    assert all(torch.equal(checkpoint.state[name], state[name]) for name in state)


def test_plain_weights_instead_of_the_average_on_request(state, tmp_path):
    torch.save({"model": state, "model_ema": wrap_prefix(state, "x")}, tmp_path / "a.pth")
    checkpoint = read_checkpoint(tmp_path / "a.pth", ema=False)
    assert checkpoint.wrappers == ("model",)
    assert checkpoint.extra == ("model_ema",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "it holds a list"),
        (torch.zeros(3), "it holds a Tensor"),
        ({}, "no tensors in it"),
        ({"epoch": 3, "lr": 0.1}, r"no tensors in it \(keys: epoch, lr\)"),
        ({"n_averaged": torch.tensor(1)}, "no tensors in it"),
        ({"model": [torch.zeros(1)]}, "no tensors in it"),
    ],
)
def test_contents_without_a_state_dict(content, message, tmp_path):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=rf"a\.pth is not a checkpoint of weights: {message}"):
        read_checkpoint(tmp_path / "a.pth")


def test_unwrapping_names_what_lay_beside(state, tmp_path):
    found = unwrap({"model": state, "epoch": 1, "args": None}, tmp_path)
    assert found.extra == ("epoch", "args")


def test_a_checkpoint_that_the_trainer_wrote(tmp_path):
    """The real thing, so that the two rooms agree on the names."""
    from convnext.tasks.classify import ClassifyConfig, ClassifyTask
    from convnext.train import checkpoint
    from convnext.train.ema import Ema
    from convnext.train.losses import LossLog
    from convnext.train.parallel import setup
    from convnext.train.state import TrainState

    shape = {k: v for k, v in TINY.items() if k != "num_classes"}
    task = ClassifyTask(ClassifyConfig(model="convnext_tiny", model_args=shape), num_classes=3)
    ema = Ema(task, 0.9)
    with torch.no_grad():
        for p in task.parameters():
            p.add_(1.0)
    optimizer = torch.optim.AdamW(task.parameters())
    state = TrainState(task=task, optimizer=optimizer, losses=LossLog(setup("cpu"), 1), ema=ema)
    path = checkpoint.save(tmp_path, 5, state.state_dict(), keep=1)
    averaged, plain = read_checkpoint(path), read_checkpoint(path, ema=False)
    assert averaged.wrappers == ("ema", "network.")
    assert plain.wrappers == ("task", "network.")
    name = "stages.0.blocks.0.pwconv1.weight"
    assert torch.equal(averaged.state[name], ema.module.network.state_dict()[name])
    assert torch.equal(plain.state[name], task.network.state_dict()[name])
