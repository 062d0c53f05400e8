"""Numbers as text, ticks, curves and the score's picture."""

import math
import re

import pytest

from convnext.report.curves import MAX_POINTS, curves, series
from convnext.report.gallery import data_uri
from convnext.report.svg import Frame, nice_ticks, padded, tick_label
from convnext.report.text import duration, esc, percent, plain, quantity, shorten, width


@pytest.mark.parametrize(
    ("value", "text"),
    [(28_589_128, "28.6 M"), (4.4555e9, "4.46 G"), (999.6, "1.00 k"), (43.21, "43.2"), (0, "0.00")],
)
def test_quantity(value, text):
    assert quantity(value).replace("\u202f", " ") == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3.21, "3.2 s"), (59.6, "1 min 0 s"), (453, "7 min 33 s"), (7260, "2 h 1 min")],
)
def test_duration(seconds, text):
    assert duration(seconds).replace("\u202f", " ") == text
    assert duration(10 * 86400).replace("\u202f", " ") == "10.0 days"


def test_text():
    assert percent(None) == "–"
    assert plain((0.9, 0.999)) == "0.9, 0.999"
    assert plain("") == "–"
    assert esc("a\udce9\x07<") == "a\ufffd\ufffd&lt;"
    assert shorten("short", 10) == "short"
    cut = shorten("美洲豹" * 9, 10)
    assert cut.endswith("…")
    assert width(cut) <= 10


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (3, 97, [20, 40, 60, 80]),
        (0, 4.2e-3, [0, 0.001, 0.002, 0.003, 0.004]),
        (0, 3e5, [0, 1e5, 2e5, 3e5]),
    ],
)
def test_ticks_are_round_numbers_inside_the_range(low, high, expected):
    assert nice_ticks(low, high, 5) == pytest.approx(expected)


def test_tick_labels_are_short():
    labels = [tick_label(v) for v in (0, 0.25, 1000, 1500, 12_000, 2e6, 4e-3, 1e-6)]
    assert labels == ["0", "0.25", "1k", "1500", "12k", "2M", "0.004", "1e-6"]


def test_frame_maps_corners():
    frame = Frame(x_range=(0, 10), y_range=(-1, 1), width=100, height=50, left=20, right=10)
    assert (frame.x(0), frame.x(10)) == (20, 90)
    assert (frame.y(-1), frame.y(1)) == (50 - frame.bottom, frame.top)
    assert padded([2.0]) == (1.8, 2.2)
    assert padded([0.0, 0.0]) == (-1.0, 1.0)


def test_series_is_sorted_finite_and_thinned():
    lines = [{"step": s, "loss": float(s)} for s in range(10_000, 0, -1)]
    lines += [{"step": 5, "loss": math.nan}, {"step": 6, "loss": None}, {"loss": 1.0}]
    points = series(lines, "loss")
    assert len(points) <= MAX_POINTS
    assert points == sorted(points)
    assert sum(y for _, y in points) / len(points) == pytest.approx(5000, rel=0.01)


def test_averaged_weights_are_the_main_curve():
    lines = [
        {"kind": "eval", "step": step, "top1": top1, "loss": 1.0, "weights": weights}
        for step, weights, top1 in ((1, "model", 50.0), (1, "ema", 40.0), (2, "ema", 45.5))
    ]
    drawn = curves(lines)
    assert "validation, averaged weights" in drawn
    assert "raw weights" in drawn
    assert "best 45.5" in drawn
    assert "averaged" not in curves(lines[:1])
    assert curves([]) == ""


def test_curve_points_lie_inside_the_picture():
    lines = [{"kind": "train", "step": s, "loss": 1 / s, "lr": 1e-3} for s in range(1, 50)]
    drawn = curves(lines)
    paths = re.findall(r'points="([^"]+)"', drawn)
    assert len(paths) == 2
    for path in paths:
        for pair in path.split():
            x, y = map(float, pair.split(","))
            assert 0 <= x <= 340
            assert 0 <= y <= 240


def test_pictures_know_their_format():
    assert data_uri(b"\x89PNG....").startswith("data:image/png;base64,")
    assert data_uri(b"\xff\xd8\xff..").startswith("data:image/jpeg;base64,")
