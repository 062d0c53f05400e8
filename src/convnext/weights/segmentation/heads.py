"""Names of UPerNet's heads in all layouts; ours are the published ones.

smp is segmentation_models_pytorch. Its UPerNet has no auxiliary head, and counts its laterals from
the deepest map.

Sources: facebookresearch/ConvNeXt, semantic_segmentation (mmsegmentation 0.11); transformers,
models/upernet; qubvel-org/segmentation_models.pytorch 0.5 and later, decoders/upernet: names of
their state dicts.
"""

from convnext.weights.layouts.layout import Layout, Row
from convnext.weights.systems.kinds import SEGMENTER
from convnext.weights.systems.layout import SMP
from convnext.weights.systems.system import Names

__all__ = ["SEGMENTER_LAYOUTS", "SEGMENTER_NAMES"]

SEGMENTER_LAYOUTS = ("convnext", "official", "timm", "transformers", "openmmlab", SMP)
_MAIN, _AUXILIARY = "decode_head", "auxiliary_head"
_BLOCKS = (
    f"{_MAIN}.psp_modules.{{i}}.1",
    f"{_MAIN}.bottleneck",
    f"{_MAIN}.lateral_convs.{{i}}",
    f"{_MAIN}.fpn_convs.{{i}}",
    f"{_MAIN}.fpn_bottleneck",
    f"{_AUXILIARY}.convs.{{i}}",
)


def _rows(norm: str, classifier: str) -> tuple[Row, ...]:
    """A convolution and a batch norm of each block, and the last layers, by these words."""
    rows = [Row(f"{head}.conv_seg.*", f"{head}.{classifier}.*") for head in (_MAIN, _AUXILIARY)]
    for block in _BLOCKS:
        rows.append(Row(f"{block}.conv.*", f"{block}.conv.*"))
        rows.append(Row(f"{block}.bn.**", f"{block}.{norm}.**"))
    return tuple(rows)


def _smp_rows() -> tuple[Row, ...]:
    blocks = {
        f"{_MAIN}.psp_modules.{{i}}.1": "decoder.psp.blocks.{i}.1",
        f"{_MAIN}.bottleneck": "decoder.psp.out_conv",
        f"{_MAIN}.fpn_bottleneck": "decoder.fusion_block",
    }
    for i in range(3):
        theirs = 2 - i
        lateral = f"decoder.fpn_lateral_blocks.{theirs}.conv_norm_relu"
        blocks[f"{_MAIN}.lateral_convs.{i}"] = lateral
        blocks[f"{_MAIN}.fpn_convs.{i}"] = f"decoder.fpn_conv_blocks.{theirs}"
    rows = [Row(f"{_MAIN}.conv_seg.*", "segmentation_head.0.*")]
    for ours, name in blocks.items():
        rows += [Row(f"{ours}.conv.*", f"{name}.0.*"), Row(f"{ours}.bn.**", f"{name}.1.**")]
    return tuple(rows)


_TRANSFORMERS = Layout("transformers", "transformers", _rows("batch_norm", "classifier"))
_SMP = Layout(SMP, "smp (segmentation_models_pytorch)", _smp_rows())
_ALL = Layout("all", "all", (*_rows("bn", "conv_seg"), *_TRANSFORMERS.rows, *_SMP.rows))

SEGMENTER_NAMES = Names(
    layouts=SEGMENTER_LAYOUTS,
    heads=(*SEGMENTER.heads, "decoder."),
    bodies={"backbone.": None, "encoder.": _SMP},
    read=_ALL,
    write={"transformers": _TRANSFORMERS, SMP: _SMP},
    lost={SMP: (f"{_AUXILIARY}.",)},
)
