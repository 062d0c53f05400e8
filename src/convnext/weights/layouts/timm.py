"""Layouts of timm's ConvNeXt, V1 and V2, whole and as features. timm has no isotropic network.

Source: huggingface/pytorch-image-models, timm/models/convnext.py, names of its state dict.
"""

from convnext.weights.layouts.layout import Layout, Row

TIMM = Layout(
    "timm",
    "timm",
    (
        Row("stem.conv.*", "stem.0.*"),
        Row("stem.norm.*", "stem.1.*"),
        Row("stages.{i}.downsample.norm.*", "stages.{i}.downsample.0.*"),
        Row("stages.{i}.downsample.conv.*", "stages.{i}.downsample.1.*"),
        Row("stages.{i}.blocks.{j}.gamma", "stages.{i}.blocks.{j}.gamma"),
        Row("stages.{i}.blocks.{j}.dwconv.*", "stages.{i}.blocks.{j}.conv_dw.*"),
        Row("stages.{i}.blocks.{j}.norm.*", "stages.{i}.blocks.{j}.norm.*"),
        Row("stages.{i}.blocks.{j}.pwconv1.*", "stages.{i}.blocks.{j}.mlp.fc1.*"),
        Row("stages.{i}.blocks.{j}.grn.gamma", "stages.{i}.blocks.{j}.mlp.grn.weight"),
        Row("stages.{i}.blocks.{j}.grn.beta", "stages.{i}.blocks.{j}.mlp.grn.bias"),
        Row("stages.{i}.blocks.{j}.pwconv2.*", "stages.{i}.blocks.{j}.mlp.fc2.*"),
        Row("norm.*", "head.norm.*"),
        Row("head.*", "head.fc.*"),
    ),
)

# With features_only the first dot of stem and stages is an underscore.
TIMM_FEATURES = Layout(
    "timm",
    "timm (features_only)",
    tuple(
        Row(row.ours, row.theirs.replace(".", "_", 1), row.shape)
        for row in TIMM.rows
        if row.theirs.startswith(("stem.", "stages."))
    ),
)

# timm builds the pointwise layers of these networks as 1x1 convolutions, and loads their weights
# only in that shape.
CONV_MLP = frozenset(
    f"{family}_{size}"
    for family in ("convnext", "convnextv2")
    for size in ("atto", "femto", "pico", "nano")
)
