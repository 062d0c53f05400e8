"""The documentation says what the code says."""

import importlib.util
import re
from pathlib import Path

import pytest

from convnext.models.roadmap import STEPS

ROOT = Path(__file__).resolve().parents[1]


def test_each_step_links_to_its_line():
    text = (ROOT / "docs" / "roadmap.md").read_text()
    source = (ROOT / "src" / "convnext" / "models" / "roadmap.py").read_text().splitlines()
    links = re.findall(
        r"^\| \[`(\w+)`\]\(\.\./src/convnext/models/roadmap\.py#L(\d+)\)", text, re.M
    )
    assert [name for name, _ in links] == [step.name for step in STEPS]
    for name, line in links:
        assert f'"{name}"' in source[int(line) - 1], (name, line)


def test_the_road_table_has_the_golden_counts():
    path = ROOT / "tests" / "golden" / "test_roadmap.py"
    spec = importlib.util.spec_from_file_location("golden_roadmap", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    text = (ROOT / "docs" / "roadmap.md").read_text()
    for step, (params_t, macs_t, params_b, macs_b) in module.ROAD.items():
        (row,) = [line for line in text.splitlines() if line.startswith(f"| [`{step}`]")]
        for value in (
            f"{params_t:,}",
            f"{params_b:,}",
            f"{macs_t / 1e9:.3f}",
            f"{macs_b / 1e9:.3f}",
        ):
            assert f" {value} " in row, (step, value)


@pytest.mark.parametrize("page", [*sorted(ROOT.glob("docs/**/*.md")), ROOT / "README.md"], ids=str)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target
