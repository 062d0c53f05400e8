"""Our own layout: the names of :class:`convnext.models.convnext.ConvNeXt`."""

from convnext.weights.layouts.layout import Layout, Row

NAMES = (
    "stem.conv.*",
    "stem.norm.*",
    "stages.{i}.downsample.norm.*",
    "stages.{i}.downsample.conv.*",
    "stages.{i}.blocks.{j}.gamma",
    "stages.{i}.blocks.{j}.dwconv.*",
    "stages.{i}.blocks.{j}.norm.*",
    "stages.{i}.blocks.{j}.pwconv1.*",
    "stages.{i}.blocks.{j}.grn.gamma",
    "stages.{i}.blocks.{j}.grn.beta",
    "stages.{i}.blocks.{j}.pwconv2.*",
    "norm.*",
    "head.*",
)

# Networks that no other library has are stored as they are; their names need no translation.
OTHER_NETWORK = Layout("convnext", "convnext (this package)", ())
OURS = Layout("convnext", "convnext (this package)", tuple(Row(name, name) for name in NAMES))
