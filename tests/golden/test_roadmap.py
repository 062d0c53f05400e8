"""The road from ResNet to ConvNeXt: parameters and multiply-accumulates of all 32 networks."""

import pytest
import torch

from convnext.evaluate.cost import macs, num_params
from convnext.models.registry import build_model, list_models

# step: parameters and multiply-accumulates at 224 px in the ResNet-50 regime, then in the
# ResNet-200 regime, where no norm, activation, bias or pooling is counted.
ROAD = {
    "resnet": (25_557_032, 4_089_184_256, 64_673_832, 15_007_481_856),
    "stage_ratio": (28_628_520, 4_525_916_160, 83_066_332, 14_518_404_096),
    "patchify_stem": (28_622_120, 4_417_536_000, 83_057_932, 14_376_155_136),
    "depthwise": (15_722_600, 2_349_507_072, 42_585_472, 7_234_368_288),
    "width": (33_760_936, 5_267_976_960, 96_526_568, 16_763_933_696),
    "inverted_bottleneck": (25_851_400, 4_644_406_272, 83_700_072, 15_679_418_368),
    "move_up_depthwise": (25_625_416, 4_065_080_448, 83_094_632, 14_627_001_856),
    "kernel5": (25_720_648, 4_097_293_440, 83_369_064, 14_698_853_888),
    "kernel7": (25_863_496, 4_145_612_928, 83_780_712, 14_806_631_936),
    "kernel9": (26_053_960, 4_210_038_912, 84_329_576, 14_950_336_000),
    "kernel11": (26_292_040, 4_290_571_392, 85_015_656, 15_129_966_080),
    "gelu": (25_863_496, 4_145_612_928, 83_780_712, 14_806_631_936),
    "fewer_activations": (25_863_496, 4_145_612_928, 83_780_712, 14_806_631_936),
    "fewer_norms": (25_797_256, 4_145_612_928, 83_600_232, 14_806_631_936),
    "layer_norm": (25_836_328, 4_145_612_928, 83_707_624, 14_806_631_936),
    "separate_downsampling": (28_589_128, 4_455_531_264, 88_591_464, 15_354_729_472),
}


@pytest.mark.parametrize("step", ROAD)
@pytest.mark.parametrize("regime", ["t", "b"])
def test_every_step_has_the_exact_size(regime, step):
    with torch.device("meta"):
        model = build_model(f"roadmap_{regime}_{step}")
    expected = ROAD[step][:2] if regime == "t" else ROAD[step][2:]
    assert (num_params(model), macs(model, (3, 224, 224))) == expected


def test_the_road_is_complete_and_in_order():
    for regime in "tb":
        assert list_models(f"roadmap_{regime}_*") == [f"roadmap_{regime}_{step}" for step in ROAD]


def test_without_layer_scale_the_last_step_has_the_papers_other_count():
    with torch.device("meta"):
        t, b = (
            build_model(f"roadmap_{r}_separate_downsampling", layer_scale_init_value=0.0)
            for r in "tb"
        )
    assert (num_params(t), num_params(b)) == (28_582_504, 88_573_416)
