"""Layout of torchvision's ConvNeXt (V1 only).

Source: pytorch/vision, torchvision/models/convnext.py, names of its state dict.
"""

from convnext.weights.layouts.layout import Layout, Row

_BLOCK = "features.{2i+1}.{j}"

TORCHVISION = Layout(
    "torchvision",
    "torchvision",
    (
        Row("stem.conv.*", "features.0.0.*"),
        Row("stem.norm.*", "features.0.1.*"),
        Row("stages.{i}.downsample.norm.*", "features.{2i}.0.*"),
        Row("stages.{i}.downsample.conv.*", "features.{2i}.1.*"),
        Row("stages.{i}.blocks.{j}.gamma", f"{_BLOCK}.layer_scale", (-1, 1, 1)),
        Row("stages.{i}.blocks.{j}.dwconv.*", f"{_BLOCK}.block.0.*"),
        Row("stages.{i}.blocks.{j}.norm.*", f"{_BLOCK}.block.2.*"),
        Row("stages.{i}.blocks.{j}.pwconv1.*", f"{_BLOCK}.block.3.*"),
        Row("stages.{i}.blocks.{j}.pwconv2.*", f"{_BLOCK}.block.5.*"),
        Row("norm.*", "classifier.0.*"),
        Row("head.*", "classifier.2.*"),
    ),
)
