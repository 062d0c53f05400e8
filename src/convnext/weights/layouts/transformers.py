"""Layouts of transformers: ConvNext and ConvNextV2, with and without the classifier around them.

The model alone may be a backbone, which has a norm for each of its maps besides.

Source: huggingface/transformers, models/convnext and models/convnextv2, names of their state dicts.
"""

from convnext.weights.layouts.layout import Layout, Row

MAP_NORMS = "hidden_states_norms."


def _layout(prefix: str, title: str) -> Layout:
    stage = prefix + "encoder.stages.{i}"
    block = stage + ".layers.{j}"
    vector = (1, 1, 1, -1)
    return Layout(
        "transformers",
        title,
        (
            Row("stem.conv.*", f"{prefix}embeddings.patch_embeddings.*"),
            Row("stem.norm.*", f"{prefix}embeddings.layernorm.*"),
            Row("stages.{i}.downsample.norm.*", f"{stage}.downsampling_layer.0.*"),
            Row("stages.{i}.downsample.conv.*", f"{stage}.downsampling_layer.1.*"),
            Row("stages.{i}.blocks.{j}.gamma", f"{block}.layer_scale_parameter"),
            Row("stages.{i}.blocks.{j}.dwconv.*", f"{block}.dwconv.*"),
            Row("stages.{i}.blocks.{j}.norm.*", f"{block}.layernorm.*"),
            Row("stages.{i}.blocks.{j}.pwconv1.*", f"{block}.pwconv1.*"),
            Row("stages.{i}.blocks.{j}.grn.gamma", f"{block}.grn.weight", vector),
            Row("stages.{i}.blocks.{j}.grn.beta", f"{block}.grn.bias", vector),
            Row("stages.{i}.blocks.{j}.pwconv2.*", f"{block}.pwconv2.*"),
            Row("norm.*", f"{prefix}layernorm.*"),
            Row("head.*", "classifier.*"),
        ),
        dropped=(MAP_NORMS,),
    )


TRANSFORMERS_V1 = _layout("convnext.", "transformers (ConvNext)")
TRANSFORMERS_V2 = _layout("convnextv2.", "transformers (ConvNextV2)")
TRANSFORMERS_BARE = _layout("", "transformers (bare model)")
