"""Our own layout: the names of :class:`~convnext.models.convnext.ConvNeXt` and of RepLKNet."""

from convnext.weights.layouts.layout import Layout, Row

_BRANCHES = ("tall", "wide", "small", "square")
_CONVNEXT = (
    "stem.conv.*",
    "stem.norm.*",
    "stages.{i}.downsample.norm.*",
    "stages.{i}.downsample.conv.*",
    "stages.{i}.blocks.{j}.gamma",
    "stages.{i}.blocks.{j}.dwconv.*",
    *(f"stages.{{i}}.blocks.{{j}}.dwconv.{branch}.conv.*" for branch in _BRANCHES),
    *(f"stages.{{i}}.blocks.{{j}}.dwconv.{branch}.norm.**" for branch in _BRANCHES),
    "stages.{i}.blocks.{j}.norm.*",
    "stages.{i}.blocks.{j}.pwconv1.*",
    "stages.{i}.blocks.{j}.grn.gamma",
    "stages.{i}.blocks.{j}.grn.beta",
    "stages.{i}.blocks.{j}.pwconv2.*",
    "norm.*",
    "head.*",
)
_LARGE, _FFN = "stages.{i}.blocks.{j}.large", "stages.{i}.blocks.{j}.ffn"
_CONV_NORMS = (
    "stem.layers.{i}",
    "stages.{i}.downsample.pwconv",
    "stages.{i}.downsample.dwconv",
    *(f"{half}.pwconv{n}" for half in (_LARGE, _FFN) for n in (1, 2)),
    f"{_LARGE}.dwconv.square",
    f"{_LARGE}.dwconv.small",
)
_REPLKNET = (
    *(f"{name}.conv.*" for name in _CONV_NORMS),
    *(f"{name}.norm.**" for name in (*_CONV_NORMS, _LARGE, _FFN)),
    "norm.**",
    "head.*",
)


def _same(names: tuple[str, ...]) -> Layout:
    return Layout("convnext", "convnext (this package)", tuple(Row(name, name) for name in names))


# Networks that are told by their name alone are stored as they are, without a table.
OTHER_NETWORK = _same(())
OURS = _same(_CONVNEXT)
OURS_REPLKNET = _same(_REPLKNET)
