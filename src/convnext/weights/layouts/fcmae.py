"""Layout of masked pre-training (FCMAE) with sparse convolutions.

The sparse network stores kernels as (k², in, out), biases and GRN vectors as (1, C), and wraps
norms and linear layers in ``ln`` and ``linear``. The rows of the dense layout follow, so that a
state already made dense reads the same: reading twice changes nothing. Files published for
pre-training are dense and have no decoder; those read as ``official``.

Source: facebookresearch/ConvNeXt-V2, names and shapes of its pre-training state dict.
"""

from convnext.weights.layouts.layout import Layout, Row
from convnext.weights.layouts.official import OFFICIAL

_SPARSE = (
    Row("stem.conv.*", "encoder.downsample_layers.0.0.*"),
    Row("stem.norm.*", "encoder.downsample_layers.0.1.*"),
    Row("stages.{i}.downsample.norm.*", "encoder.downsample_layers.{i}.0.ln.*"),
    Row("stages.{i}.downsample.conv.weight", "encoder.downsample_layers.{i}.1.kernel"),
    Row("stages.{i}.downsample.conv.bias", "encoder.downsample_layers.{i}.1.bias", (1, -1)),
    Row("stages.{i}.blocks.{j}.dwconv.weight", "encoder.stages.{i}.{j}.dwconv.kernel"),
    Row("stages.{i}.blocks.{j}.dwconv.bias", "encoder.stages.{i}.{j}.dwconv.bias", (1, -1)),
    Row("stages.{i}.blocks.{j}.norm.*", "encoder.stages.{i}.{j}.norm.ln.*"),
    Row("stages.{i}.blocks.{j}.pwconv1.*", "encoder.stages.{i}.{j}.pwconv1.linear.*"),
    Row("stages.{i}.blocks.{j}.grn.gamma", "encoder.stages.{i}.{j}.grn.gamma", (1, -1)),
    Row("stages.{i}.blocks.{j}.grn.beta", "encoder.stages.{i}.{j}.grn.beta", (1, -1)),
    Row("stages.{i}.blocks.{j}.pwconv2.*", "encoder.stages.{i}.{j}.pwconv2.linear.*"),
)

FCMAE = Layout(
    "fcmae",
    "official FCMAE pre-training (sparse)",
    _SPARSE + tuple(Row(row.ours, f"encoder.{row.theirs}", row.shape) for row in OFFICIAL.rows),
    dropped=("decoder.", "mask_token", "proj.", "pred."),
)
