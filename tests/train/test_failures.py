"""What can go wrong in a long run ends with one readable message and nothing lost."""

import contextlib
import os
import pickle
import resource
import signal
import subprocess
import zipfile

import pytest
import torch

from convnext.train import checkpoint
from convnext.train.hooks import Hook
from convnext.train.losses import NonFiniteError
from convnext.train.signals import StopSignals

STEPS = {"train": {"checkpoint_every_steps": 2}, "evaluate": "none"}


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of 256 KiB: a tmpfs where we may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    with contextlib.suppress(OSError):
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            yield folder
            subprocess.run(["umount", str(folder)], check=True)
            return
    pytest.skip("mounting a small disk needs root; the file size limit is tested instead")


class FillDisk(Hook):
    def __init__(self, folder, step):
        self._folder, self._step = folder, step

    def on_step(self, step):
        if step == self._step:
            with contextlib.suppress(OSError), (self._folder / "filler").open("wb") as file:
                while True:
                    file.write(b"0" * 1024)
                    file.flush()


def test_a_disk_that_fills_up_keeps_the_last_good_checkpoint(toy, small_disk):
    scenario = STEPS | {"run_dir": str(small_disk)}
    engine = toy.build(scenario, hooks=[FillDisk(small_disk, 5)])
    with pytest.raises(OSError, match=r"step_00000006.pt: no space left; .*step_00000004.pt"):
        engine.fit()
    names = sorted(path.name for path in (small_disk / "checkpoints").iterdir())
    assert names == ["step_00000002.pt", "step_00000004.pt"]
    (small_disk / "filler").unlink()
    assert toy.build(scenario).fit().step == 18


def test_a_file_size_limit_is_a_clear_error_too(toy, tmp_path):
    scenario = STEPS | {"run_dir": str(tmp_path)}
    with pytest.raises(SystemExit):
        toy.build(scenario | {"kill_at": 3, "signal": 15}).fit()
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, unlimited[1]))
    try:
        with pytest.raises(OSError, match=r"could not write .*step_00000004.pt: no space left"):
            toy.build(scenario).fit()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step_00000002.pt", "step_00000003.pt"]


def test_a_folder_that_may_not_be_written_is_named(toy, tmp_path):
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    with pytest.raises(OSError, match=r"could not write .*checkpoints/step_00000002.pt"):
        toy.build(STEPS | {"run_dir": str(tmp_path)}).fit()


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, -10], ids=str)
def test_a_cut_checkpoint_falls_back_to_the_one_before(toy, tmp_path, keep):
    scenario = STEPS | {"run_dir": str(tmp_path)}
    with pytest.raises(SystemExit):
        toy.build(scenario | {"kill_at": 7, "signal": 15}).fit()
    newest = tmp_path / "checkpoints" / "step_00000007.pt"
    data = newest.read_bytes()
    newest.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    said = []
    path, state = checkpoint.load_latest(newest.parent, said.append)
    assert (path.name, state["step"]) == ("step_00000006.pt", 6)
    assert "step_00000007.pt is cut short or damaged; falling back" in said[0]
    assert checkpoint.latest(newest.parent) == path
    assert toy.build(scenario).fit().step == 18


def test_flipped_bytes_are_noticed(toy, tmp_path):
    path = checkpoint.save(tmp_path, 1, {"weight": torch.zeros(1000)}, keep=3)
    data = bytearray(path.read_bytes())
    data[data.index(bytes(2000)) + 1000] ^= 1
    path.write_bytes(data)
    with pytest.raises(checkpoint.BrokenCheckpointError, match="damaged"):
        checkpoint.load(path)


def test_when_no_checkpoint_can_be_read_nothing_is_overwritten(toy, tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "step_00000002.pt").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(ValueError, match=r"no checkpoint in .* delete the folder"):
        toy.build(STEPS | {"run_dir": str(tmp_path)}).fit()
    assert [path.name for path in folder.iterdir()] == ["step_00000002.pt"]


class Malicious:
    def __init__(self, target):
        self._target = target

    def __reduce__(self):
        return os.mkdir, (self._target,)


@pytest.mark.parametrize("bare", [True, False], ids=["pickle", "inside-torch-file"])
def test_a_malicious_checkpoint_is_refused_and_runs_nothing(toy, tmp_path, bare):
    folder, target = tmp_path / "checkpoints", tmp_path / "harm"
    folder.mkdir()
    path = folder / "step_00000004.pt"
    if bare:
        path.write_bytes(pickle.dumps(Malicious(str(target))))
    else:
        torch.save({"format": checkpoint.FORMAT, "task": Malicious(str(target))}, path)
    with pytest.raises(ValueError, match=r"could run code|may run code") as caught:
        toy.build(STEPS | {"run_dir": str(tmp_path)}).fit()
    assert path.name in str(caught.value)
    assert not target.exists()


def test_other_files_and_networks_are_refused(toy, tmp_path):
    torch.save({"model": {}}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other.pt is no checkpoint of a convnext training run"):
        checkpoint.load(tmp_path / "other.pt")
    with zipfile.ZipFile(tmp_path / "archive.pt", "w") as archive:
        archive.writestr("readme", "hello")
    with pytest.raises(checkpoint.BrokenCheckpointError, match=r"archive.pt"):
        checkpoint.load(tmp_path / "archive.pt")
    with pytest.raises(SystemExit):
        toy.build(STEPS | {"run_dir": str(tmp_path), "kill_at": 3, "signal": 15}).fit()
    engine = toy.build(STEPS | {"run_dir": str(tmp_path)})
    engine.state.task.head = torch.nn.Linear(6, 4)
    with pytest.raises(ValueError, match=r"another network: task.head.bias|head.bias"):
        engine.fit()


def test_nan_loss_stops_naming_the_step_and_leaves_no_poisoned_checkpoint(run, tmp_path):
    scenario = STEPS | {"run_dir": str(tmp_path / "run"), "nan_at": 7, "log": str(tmp_path / "log")}
    assert run(scenario) == 2
    text = (tmp_path / "log").read_text()
    assert "the loss is not finite at step 7: loss = nan, ce = 1." in text
    assert "last good checkpoint is" in text
    assert "step_00000006.pt" in text
    assert "Traceback" not in text
    paths = checkpoint.paths(tmp_path / "run" / "checkpoints")
    assert [path.name for path in paths] == [f"step_0000000{i}.pt" for i in (6, 4, 2)]
    for path in paths:
        assert all(t.isfinite().all() for t in checkpoint.load(path)["task"].values())


def test_spoilt_weights_with_a_finite_loss_are_not_saved(toy, tmp_path):
    class Spoil(Hook):
        def on_step(self, step):
            if step == 4:
                engine.state.task.head.weight.data[0, 0] = float("inf")

    engine = toy.build(STEPS | {"run_dir": str(tmp_path)}, hooks=[Spoil()])
    with pytest.raises(NonFiniteError, match=r"weights are not finite after step 4.*00000002.pt"):
        engine.fit()
    assert len(checkpoint.paths(tmp_path / "checkpoints")) == 1


@pytest.mark.parametrize(("limit", "fits"), [(5, 4), (1, 1)])
def test_out_of_memory_names_the_micro_batch_that_fits(toy, tmp_path, limit, fits):
    scenario = {"run_dir": str(tmp_path), "out_of_memory_above": limit, "evaluate": "none"}
    with pytest.raises(ValueError, match=rf"{fits} fit: set micro_batch={fits}.*batch of 16 is"):
        toy.build(scenario).fit()
    assert not checkpoint.paths(tmp_path / "checkpoints")
    assert toy.build(scenario | {"train": {"micro_batch": fits}}).fit().step == 18


def test_out_of_memory_with_one_image(toy, tmp_path):
    with pytest.raises(ValueError, match="fewer do not fit either: take a smaller"):
        toy.build({"run_dir": str(tmp_path), "out_of_memory_above": 0}).fit()


def test_the_allocator_of_the_cpu_runs_out_of_memory(run, tmp_path):
    """For real: with an address space that the whole batch does not fit into."""
    scenario = {"run_dir": str(tmp_path), "log": str(tmp_path / "log"), "hungry": True}
    assert run(scenario) == 2
    text = (tmp_path / "log").read_text()
    assert "out of memory on cpu at step 1 with 16 images at a time; " in text
    assert "kept by accumulation" in text


@pytest.fixture
def usual_interrupt():
    """Python's own handler: a shell starts what it runs in the background with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_second_signal_ends_at_once(usual_interrupt):
    with StopSignals() as signals:
        signal.raise_signal(signal.SIGINT)  # to this thread, so at once
        assert signals.received == 2
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
