"""The command line itself: fast help, lists, nearest words, signals of a closed pipe."""

import json
import resource
import subprocess
import sys

import pytest

from convnext.cli import COMMANDS, main


def test_help_is_fast_and_imports_no_torch():
    code = (
        "import sys; from convnext.cli import main; status = main(['--help']);"
        "sys.exit(status or 'torch' in sys.modules)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert all(f"  {name} " in done.stdout for name in COMMANDS)
    # Time on the processor: the clock on the wall would measure the other tests, too.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0


@pytest.mark.parametrize(
    "command", [["models", "convnext_tiny"], ["recipes", "tiny"], ["weights", "list", "tiny"]]
)
def test_lists_do_not_wait_for_what_reads_images(command):
    code = (
        f"import sys; from convnext.cli import main; status = main({command!r});"
        "sys.exit(status or 'torchvision' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=True)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c != "weights"])
def test_every_command_explains_its_options(command, capsys):
    assert main([command, "--help"]) == 0
    assert f"usage: convnext {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian"], "unknown command 'trian'; did you mean train?"),
        (["train", "--dta", "x"], "unknown option '--dta'; did you mean --data?"),
        (["train", "--optim.epoch", "3"], "did you mean --optim.epochs?"),
        (["train", "convnext_tinny_in1k", "--data", "x"], "did you mean convnext_tiny_in1k"),
        (["predict", "r", "x", "--cav", "y"], "did you mean --csv?"),
        (["evaluate", "convnext_tiny.in1kk", "--data", "x"], "did you mean 'in1k'?"),
        (["evaluate", "runs/none", "--data", "x"], "runs/none: no such file or folder"),
        (["weights", "inspct", "x"], "did you mean inspect?"),
        (["weights", "inspect", "no.pth"], "no.pth: no such file"),
        (["models", "resnext"], "no model matches 'resnext'"),
        (["recipes", "resnet"], "no recipe matches 'resnet'"),
        (["train"], "no images: --data DIR"),
        (["predict", "convnext_tiny"], "no images: name files or folders"),
        (["doctor", "--data", "nowhere"], "nowhere: no such file or folder"),
        (["evaluate", "x", "--data", "y", "--device", "cudda"], "device 'cudda' cannot be used"),
        (["train", "no.json", "--data", "x"], "no.json: No such file or directory"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert words in err
    assert len(err.splitlines()) == 1
    assert err.startswith("convnext: ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--data", "x", "--epochs", "many"], "--optim.epochs"),
        (["train", "--data", "x", "--task.model-args", "{"], "no valid JSON"),
        (["train", "--data", "x", "--task.mixup", "-1"], "task.mixup is -1"),
        (["train", "--data", "x", "--data.on-bad-image", "hide"], "stop"),
        (["predict"], "RUN_OR_WEIGHTS"),
    ],
)
def test_a_wrong_value_names_its_option_and_status_2(arguments, words, capsys, tmp_path):
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert words in err
    assert len(err.splitlines()) == 1


def test_debug_shows_the_traceback(monkeypatch):
    monkeypatch.setenv("CONVNEXT_DEBUG", "1")
    with pytest.raises(ValueError, match="unknown command"):
        main(["trian"])


def test_models_lists_parameters_cost_and_accuracy(capsys):
    assert main(["models", "convnext_tiny", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["parameters"] == 28_589_128
    assert row["GMACs at 224"] == "4.456"
    assert row["top-1"] == 82.1
    assert row["best top-1"] == 84.1


def test_recipes_and_weights_are_listed(capsys):
    assert main(["recipes", "xlarge"]) == 0
    assert "convnext_xlarge_in22k_ft_in1k_384" in capsys.readouterr().out
    assert main(["weights", "list", "convnextv2_huge.*"]) == 0
    assert "CC BY-NC" in capsys.readouterr().out


def test_weights_are_inspected_and_converted(run, tmp_path, capsys):
    out = tmp_path / "official.pth"
    source = str(run / "weights")
    assert main(["weights", "convert", source, str(out), "--layout", "official"]) == 0
    assert main(["weights", "inspect", str(out)]) == 0
    assert "official" in capsys.readouterr().out


def test_doctor_finds_nothing_wrong_and_then_something(images, tmp_path, image_writer, capsys):
    assert main(["doctor", "--data", str(images)]) == 0
    data = image_writer(tmp_path / "data" / "train", 3)
    (data / "red" / "bad.png").write_bytes(b"\x89PNG no")
    report = tmp_path / "findings.json"
    assert main(["doctor", "--data", str(tmp_path / "data"), "--json", str(report)]) == 1
    assert "bad.png" in capsys.readouterr().out
    assert not json.loads(report.read_text())["ok"]


def test_a_closed_pipe_is_no_error():
    code = "from convnext.cli import main; import sys; sys.exit(main(['recipes']))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    with process:
        assert process.stderr.read() == ""
    assert process.returncode == 0
