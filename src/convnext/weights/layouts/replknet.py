"""Layouts of RepLKNet; blocks are numbered through: even ones look far, odd ones mix channels.

The authors share their files on Google Drive, which cannot be fetched by a plain address, so they
are not in the catalogue: the user downloads a file and gives its path. Re-parameterised files keep
all norms but those of the large kernels. Ours have none left, so such files are read with the
others folded as well, and a merged network has no name here.

Source: DingXiaoH/RepLKNet-pytorch, names of its state dict.
"""

from convnext.weights.layouts.layout import Layout, Row, conv_norm_rows

_LARGE, _FFN = "stages.{i}.blocks.{j}.large", "stages.{i}.blocks.{j}.ffn"
_EVEN, _ODD = "stages.{i}.blocks.{2j}", "stages.{i}.blocks.{2j+1}"
_SHARED = (
    *conv_norm_rows("stem.layers.{i}", "stem.{i}"),
    *conv_norm_rows("stages.{i+1}.downsample.pwconv", "transitions.{i}.0"),
    *conv_norm_rows("stages.{i+1}.downsample.dwconv", "transitions.{i}.1"),
    Row(f"{_LARGE}.norm.**", f"{_EVEN}.prelkb_bn.**"),
    *conv_norm_rows(f"{_LARGE}.pwconv1", f"{_EVEN}.pw1"),
    *conv_norm_rows(f"{_LARGE}.pwconv2", f"{_EVEN}.pw2"),
    Row(f"{_FFN}.norm.**", f"{_ODD}.preffn_bn.**"),
    *conv_norm_rows(f"{_FFN}.pwconv1", f"{_ODD}.pw1"),
    *conv_norm_rows(f"{_FFN}.pwconv2", f"{_ODD}.pw2"),
    Row("norm.**", "norm.**"),
    Row("head.*", "head.*"),
)

REPLKNET = Layout(
    "official",
    "official (RepLKNet)",
    (
        *_SHARED,
        *conv_norm_rows(f"{_LARGE}.dwconv.square", f"{_EVEN}.large_kernel.lkb_origin"),
        *conv_norm_rows(f"{_LARGE}.dwconv.small", f"{_EVEN}.large_kernel.small_conv"),
    ),
)
REPLKNET_MERGED = Layout(
    "official",
    "official (RepLKNet, re-parameterised)",
    (*_SHARED, Row(f"{_LARGE}.dwconv.square.conv.*", f"{_EVEN}.large_kernel.lkb_reparam.*")),
)
