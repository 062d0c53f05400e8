"""Size, cost, speed and memory as printed, for ConvNeXt and what it is compared with.

Source: "A ConvNet for the 2020s", tables 1 and 2 (V100, fp32; table 2's memory at 32 images a
device in training) and 12 (A100, TF32, channels-last).
"""

from dataclasses import dataclass

__all__ = ["PAIRS", "ROWS", "SETTINGS", "Row", "Setting", "rows_of", "top1_of"]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How a table was measured.

    Attributes:
        device: The authors' device.
        dtype: Arithmetic.
        memory_format: Layout of the images in memory.
        batch_size: Images a batch.
        training: Whether training memory is in the table.
    """

    device: str
    dtype: str
    memory_format: str
    batch_size: int
    training: bool = False


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table.

    Attributes:
        table: "table1", "table2" or "table12".
        network: Name that `convnext bench` takes.
        size: Side of the images in pixels.
        params: Millions of parameters; None where the table does not say, likewise the next ones.
        gflops: Billions of multiply-accumulates.
        images_per_second: Inference.
        memory: Peak training memory in GB.
        top1: Top-1 on ImageNet-1K in percent, trained on ImageNet-1K. Those of ConvNeXt stand in
            the catalogue of weights.
        top1_in22k: Likewise, pre-trained on ImageNet-22K.
    """

    table: str
    network: str
    size: int
    params: float | None = None
    gflops: float | None = None
    images_per_second: float | None = None
    memory: float | None = None
    top1: float | None = None
    top1_in22k: float | None = None


SETTINGS = {
    "table1": Setting(device="V100", dtype="fp32", memory_format="contiguous", batch_size=64),
    "table2": Setting(
        device="V100", dtype="fp32", memory_format="contiguous", batch_size=32, training=True
    ),
    "table12": Setting(device="A100", dtype="tf32", memory_format="channels_last", batch_size=64),
}

_SWIN_T, _SWIN_S = "timm:swin_tiny_patch4_window7_224", "timm:swin_small_patch4_window7_224"
_SWIN_B, _SWIN_L = "timm:swin_base_patch4_window7_224", "timm:swin_large_patch4_window7_224"
_SWIN_B_384 = "timm:swin_base_patch4_window12_384"
_SWIN_L_384 = "timm:swin_large_patch4_window12_384"
_VIT_S, _VIT_B = "timm:deit_small_patch16_224", "timm:deit_base_patch16_224"

# network, px, million parameters, GFLOPs, images/s, top-1, top-1 after ImageNet-22K
_TABLE_1 = (
    ("timm:regnety_160", 224, 84, 16.0, 334.7, 82.9, None),
    ("timm:tf_efficientnet_b7", 600, 66, 37.0, 55.1, 84.3, None),
    ("timm:tf_efficientnetv2_l", 480, 120, 53.0, 83.7, 85.7, 86.8),
    ("timm:tf_efficientnetv2_xl", 480, 208, 94.0, 56.5, None, 87.3),
    (_VIT_S, 224, 22, 4.6, 978.5, 79.8, None),
    (_VIT_B, 224, 87, 17.6, 302.1, 81.8, None),
    ("timm:vit_base_patch16_384", 384, 87, 55.5, 93.1, None, 85.4),
    ("timm:vit_large_patch16_384", 384, 305, 191.1, 28.5, None, 86.8),
    ("timm:resnetv2_101x3_bit", 384, 388, 204.6, None, None, 84.4),
    ("timm:resnetv2_152x4_bit", 480, 937, 840.5, None, None, 85.4),
    (_SWIN_T, 224, 28, 4.5, 757.9, 81.3, None),
    ("convnext_tiny", 224, 29, 4.5, 774.7, None, None),
    (_SWIN_S, 224, 50, 8.7, 436.7, 83.0, None),
    ("convnext_small", 224, 50, 8.7, 447.1, None, None),
    (_SWIN_B, 224, 88, 15.4, 286.6, 83.5, 85.2),
    ("convnext_base", 224, 89, 15.4, 292.1, None, None),
    (_SWIN_B_384, 384, 88, 47.1, 85.1, 84.5, 86.4),
    ("convnext_base", 384, 89, 45.0, 95.7, None, None),
    (_SWIN_L, 224, 197, 34.5, 145.0, None, 86.3),
    ("convnext_large", 224, 198, 34.4, 146.8, None, None),
    (_SWIN_L_384, 384, 197, 103.9, 46.0, None, 87.3),
    ("convnext_large", 384, 198, 101.0, 50.4, None, None),
    ("convnext_tiny", 384, 29, 13.1, 282.8, None, None),
    ("convnext_small", 384, 50, 25.5, 163.5, None, None),
    ("convnext_xlarge", 224, 350, 60.9, 89.3, None, None),
    ("convnext_xlarge", 384, 350, 179.0, 30.2, None, None),
)
# network, million parameters, GFLOPs, images/s, training memory in GB, top-1
_TABLE_2 = (
    (_VIT_S, 22, 4.6, 978.5, 4.9, 79.8),
    ("convnext_isotropic_small", 22, 4.3, 1038.7, 4.2, None),
    (_VIT_B, 87, 17.6, 302.1, 9.1, 81.8),
    ("convnext_isotropic_base", 87, 16.9, 320.1, 7.7, None),
    ("timm:vit_large_patch16_224", 304, 61.6, 93.1, 22.5, 82.6),
    ("convnext_isotropic_large", 306, 59.7, 94.4, 20.4, None),
)
# network, px, images/s
_TABLE_12 = (
    (_SWIN_T, 224, 1325.6),
    ("convnext_tiny", 224, 1943.5),
    (_SWIN_S, 224, 857.3),
    ("convnext_small", 224, 1275.3),
    (_SWIN_B, 224, 662.8),
    ("convnext_base", 224, 969.0),
    (_SWIN_B_384, 384, 242.5),
    ("convnext_base", 384, 336.6),
    (_SWIN_L, 224, 435.9),
    ("convnext_large", 224, 611.5),
    (_SWIN_L_384, 384, 157.9),
    ("convnext_large", 384, 211.4),
    ("convnext_xlarge", 224, 424.4),
    ("convnext_xlarge", 384, 147.4),
)
ROWS: tuple[Row, ...] = (
    *(
        Row(
            table="table1",
            network=name,
            size=size,
            params=params,
            gflops=gflops,
            images_per_second=speed,
            top1=top1,
            top1_in22k=top1_in22k,
        )
        for name, size, params, gflops, speed, top1, top1_in22k in _TABLE_1
    ),
    *(
        Row(
            table="table2",
            network=name,
            size=224,
            params=params,
            gflops=gflops,
            images_per_second=speed,
            memory=memory,
            top1=top1,
        )
        for name, params, gflops, speed, memory, top1 in _TABLE_2
    ),
    *(
        Row(table="table12", network=name, size=size, images_per_second=speed)
        for name, size, speed in _TABLE_12
    ),
)
# Which network of this package the tables set against which.
PAIRS: dict[tuple[str, int], str] = {
    ("convnext_tiny", 224): _SWIN_T,
    ("convnext_small", 224): _SWIN_S,
    ("convnext_base", 224): _SWIN_B,
    ("convnext_base", 384): _SWIN_B_384,
    ("convnext_large", 224): _SWIN_L,
    ("convnext_large", 384): _SWIN_L_384,
    ("convnext_isotropic_small", 224): _VIT_S,
    ("convnext_isotropic_base", 224): _VIT_B,
    ("convnext_isotropic_large", 224): "timm:vit_large_patch16_224",
}


def rows_of(table: str) -> list[Row]:
    """The lines of a table, in its order."""
    return [row for row in ROWS if row.table == table]


def top1_of(network: str, size: int) -> float | None:
    """Printed top-1 of a network that is not ours: trained on ImageNet-1K, else with 22K."""
    for row in ROWS:
        if (row.network, row.size) == (network, size) and (row.top1 or row.top1_in22k):
            return row.top1 or row.top1_in22k
    return None
