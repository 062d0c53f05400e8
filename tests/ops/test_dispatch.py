"""The choice of implementation is explicit, scoped and checked."""

import os
import subprocess
import sys

import pytest

from convnext.ops import dispatch


def test_scoped_even_on_errors():
    seen = []

    def body():
        with dispatch.use("reference"):
            seen.append(dispatch.use_reference())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        body()
    assert seen == [True]
    assert not dispatch.use_reference()


def test_unknown_choice():
    with pytest.raises(ValueError, match="auto, reference"), dispatch.use("fast"):
        pass


@pytest.mark.parametrize(("value", "status"), [("reference", 0), ("fastest", 1)])
def test_environment_variable(value, status):
    code = "from convnext.ops import dispatch; assert dispatch.use_reference()"
    environment = {**os.environ, "CONVNEXT_OPS": value}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert run.returncode == status
    assert status == 0 or b"choose one of: auto, reference" in run.stderr
