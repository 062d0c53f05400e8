"""The toy task as a module, and real processes that start quickly."""

import multiprocessing
import os
import sys
from pathlib import Path

import pytest
import torch

HERE = str(Path(__file__).parent)


@pytest.fixture(scope="session")
def toy():
    if HERE not in sys.path:
        sys.path.insert(0, HERE)
    import toy

    return toy


@pytest.fixture(scope="session")
def start(toy):
    """start(scenario) -> a running process; torch is imported once, in the fork server."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["toy", "torch._dynamo"])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (HERE, os.environ.get("PYTHONPATH"))))

    def start_process(scenario):
        process = context.Process(target=toy.run, args=(scenario,))
        process.start()
        return process

    return start_process


@pytest.fixture(scope="session")
def run(start):
    """run(scenario) -> exit code; negative for a signal."""

    def run_to_end(scenario):
        process = start(scenario)
        process.join(60)
        assert process.exitcode is not None, "the process hangs"
        return process.exitcode

    return run_to_end


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
