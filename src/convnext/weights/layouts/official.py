"""Layouts of the published repositories: V1 and V2 (one table), and isotropic.

Sources: facebookresearch/ConvNeXt and facebookresearch/ConvNeXt-V2, names of their state dicts.
"""

from convnext.weights.layouts.layout import Layout, Row

OFFICIAL = Layout(
    "official",
    "official (V1 or V2)",
    (
        Row("stem.conv.*", "downsample_layers.0.0.*"),
        Row("stem.norm.*", "downsample_layers.0.1.*"),
        Row("stages.{i}.downsample.norm.*", "downsample_layers.{i}.0.*"),
        Row("stages.{i}.downsample.conv.*", "downsample_layers.{i}.1.*"),
        Row("stages.{i}.blocks.{j}.gamma", "stages.{i}.{j}.gamma"),
        Row("stages.{i}.blocks.{j}.dwconv.*", "stages.{i}.{j}.dwconv.*"),
        Row("stages.{i}.blocks.{j}.norm.*", "stages.{i}.{j}.norm.*"),
        Row("stages.{i}.blocks.{j}.pwconv1.*", "stages.{i}.{j}.pwconv1.*"),
        Row("stages.{i}.blocks.{j}.grn.gamma", "stages.{i}.{j}.grn.gamma", (1, 1, 1, -1)),
        Row("stages.{i}.blocks.{j}.grn.beta", "stages.{i}.{j}.grn.beta", (1, 1, 1, -1)),
        Row("stages.{i}.blocks.{j}.pwconv2.*", "stages.{i}.{j}.pwconv2.*"),
        Row("norm.*", "norm.*"),
        Row("head.*", "head.*"),
    ),
)

# Our only stage is "stages.0"; theirs has no number.
OFFICIAL_ISOTROPIC = Layout(
    "official",
    "official (isotropic)",
    (
        Row("stem.conv.*", "stem.*"),
        Row("stages.0.blocks.{j}.gamma", "blocks.{j}.gamma"),
        Row("stages.0.blocks.{j}.dwconv.*", "blocks.{j}.dwconv.*"),
        Row("stages.0.blocks.{j}.norm.*", "blocks.{j}.norm.*"),
        Row("stages.0.blocks.{j}.pwconv1.*", "blocks.{j}.pwconv1.*"),
        Row("stages.0.blocks.{j}.pwconv2.*", "blocks.{j}.pwconv2.*"),
        Row("norm.*", "norm.*"),
        Row("head.*", "head.*"),
    ),
)
