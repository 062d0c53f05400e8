"""What each step of the road from ResNet to ConvNeXt reached.

Source: "A ConvNet for the 2020s", tables 10 (ResNet-50 to ConvNeXt-T, mean and deviation of three
seeds) and 11 (ResNet-200 to ConvNeXt-B, one run each); ImageNet-1K, 300 epochs, no EMA.
"""

from typing import NamedTuple

__all__ = ["ROAD", "SWIN", "Published"]


class Published(NamedTuple):
    """Top-1 accuracy in percent, its deviation over seeds (None for one run), GFLOPs as printed."""

    top1: float
    std: float | None
    gflops: float


# step: regime "t", regime "b".
# Two cells of table 10 contradict the rest of the paper, which counts multiply-accumulates of
# convolutions and linear layers: 4.46 stands one row too early (BN to LN changes no convolution;
# figure 2 prints 4.2 there), and 4.49 should be the 4.46.
ROAD: dict[str, dict[str, Published]] = {
    step: {"t": Published(*t), "b": Published(b[0], None, b[1])}
    for step, t, b in (
        ("resnet", (78.82, 0.07, 4.09), (81.14, 15.01)),
        ("stage_ratio", (79.36, 0.07, 4.53), (81.33, 14.52)),
        ("patchify_stem", (79.51, 0.18, 4.42), (81.59, 14.38)),
        ("depthwise", (78.28, 0.08, 2.35), (80.54, 7.23)),
        ("width", (80.50, 0.02, 5.27), (81.85, 16.76)),
        ("inverted_bottleneck", (80.64, 0.03, 4.64), (82.64, 15.68)),
        ("move_up_depthwise", (79.92, 0.08, 4.07), (82.04, 14.63)),
        ("kernel5", (80.35, 0.08, 4.10), (82.32, 14.70)),
        ("kernel7", (80.57, 0.14, 4.15), (82.30, 14.81)),
        ("kernel9", (80.57, 0.06, 4.21), (82.27, 14.95)),
        ("kernel11", (80.47, 0.11, 4.29), (82.18, 15.13)),
        ("gelu", (80.62, 0.14, 4.15), (82.19, 14.81)),
        ("fewer_activations", (81.27, 0.06, 4.15), (82.71, 14.81)),
        ("fewer_norms", (81.41, 0.09, 4.15), (83.17, 14.81)),
        ("layer_norm", (81.47, 0.09, 4.46), (83.35, 14.81)),
        ("separate_downsampling", (81.97, 0.06, 4.49), (83.60, 15.35)),
    )
}
SWIN = {"t": Published(81.30, None, 4.50), "b": Published(83.50, None, 15.43)}
