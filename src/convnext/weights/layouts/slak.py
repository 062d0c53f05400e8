"""Layouts of SLaK: ConvNeXt's official names, and branches in place of the depthwise convolution.

The authors share their files on Google Drive and surfdrive, which cannot be fetched by a plain
address, so they are not in the catalogue: the user downloads a file and gives its path. Their code
merges square kernels only, so a merged network of strips has no name here. In files of July 2022
the strips are ``Decom1`` and ``Decom2``; they are read, and written by the later names.

Source: VITA-Group/SLaK, names of its state dict.
"""

from convnext.weights.layouts.layout import Layout, Row, conv_norm_rows
from convnext.weights.layouts.official import OFFICIAL

_OURS, _THEIRS = "stages.{i}.blocks.{j}.dwconv", "stages.{i}.{j}.large_kernel"
_SHARED = tuple(row for row in OFFICIAL.rows if ".dwconv." not in row.ours)

SLAK = Layout(
    "official",
    "official (SLaK)",
    (
        *_SHARED,
        *conv_norm_rows(f"{_OURS}.tall", f"{_THEIRS}.LoRA1"),  # M x N
        *conv_norm_rows(f"{_OURS}.wide", f"{_THEIRS}.LoRA2"),  # N x M
        *conv_norm_rows(f"{_OURS}.small", f"{_THEIRS}.small_conv"),
        *conv_norm_rows(f"{_OURS}.square", f"{_THEIRS}.lkb_origin"),
        *conv_norm_rows(f"{_OURS}.tall", f"{_THEIRS}.Decom1"),
        *conv_norm_rows(f"{_OURS}.wide", f"{_THEIRS}.Decom2"),
    ),
)
SLAK_MERGED = Layout(
    "official",
    "official (SLaK, re-parameterised)",
    (*_SHARED, Row(f"{_OURS}.square.conv.*", f"{_THEIRS}.lkb_reparam.*")),
)
