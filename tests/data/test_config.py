"""The configuration is needed by the command line before torch is."""

import subprocess
import sys
from dataclasses import asdict

import pytest

import convnext.data
from convnext.data import AugmentConfig, DataConfig


def test_the_configuration_costs_no_heavy_import():
    code = (
        "import sys; from convnext.data.config import DataConfig; DataConfig(path='x'); "
        "print([name for name in ('torch', 'torchvision', 'timm', 'PIL', 'numpy') "
        "if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_every_public_name_is_there():
    for name in convnext.data.__all__:
        assert getattr(convnext.data, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = convnext.data.nothing


def test_a_configuration_survives_being_written_down():
    config = DataConfig(path="x", augment=AugmentConfig(vflip=0.5))
    values = asdict(config)
    assert DataConfig(**{**values, "augment": AugmentConfig(**values["augment"])}) == config
