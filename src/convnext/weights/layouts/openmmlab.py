"""Layout of OpenMMLab's own ConvNeXt, V1 and V2: classifiers, and the bodies of its detectors.

The last norm of a classifier is numbered as that of the fourth stage.

Source: open-mmlab/mmpretrain, mmpretrain/models/backbones/convnext.py, names of its state dict.
"""

from convnext.weights.layouts.layout import Layout, Row


def _layout(prefix: str, title: str) -> Layout:
    block = prefix + "stages.{i}.{j}"
    return Layout(
        "openmmlab",
        title,
        (
            Row("stem.conv.*", f"{prefix}downsample_layers.0.0.*"),
            Row("stem.norm.*", f"{prefix}downsample_layers.0.1.*"),
            Row("stages.{i}.downsample.norm.*", f"{prefix}downsample_layers.{{i}}.0.*"),
            Row("stages.{i}.downsample.conv.*", f"{prefix}downsample_layers.{{i}}.1.*"),
            Row("stages.{i}.blocks.{j}.gamma", f"{block}.gamma"),
            Row("stages.{i}.blocks.{j}.dwconv.*", f"{block}.depthwise_conv.*"),
            Row("stages.{i}.blocks.{j}.norm.*", f"{block}.norm.*"),
            Row("stages.{i}.blocks.{j}.pwconv1.*", f"{block}.pointwise_conv1.*"),
            Row("stages.{i}.blocks.{j}.grn.gamma", f"{block}.grn.gamma"),
            Row("stages.{i}.blocks.{j}.grn.beta", f"{block}.grn.beta"),
            Row("stages.{i}.blocks.{j}.pwconv2.*", f"{block}.pointwise_conv2.*"),
            Row("norm.*", f"{prefix}norm3.*"),
            Row("head.*", "head.fc.*"),
        ),
    )


OPENMMLAB = _layout("backbone.", "openmmlab")
OPENMMLAB_BODY = _layout("", "openmmlab (backbone alone)")
