"""The recipes of `convnext demo`: real photographs, minutes on two CPU cores."""

from convnext.data.config import (
    AugmentConfig,
    DataConfig,
    DetectionAugmentConfig,
    DetectionDataConfig,
    SegmentationAugmentConfig,
    SegmentationDataConfig,
)
from convnext.recipes.recipe import Recipe
from convnext.tasks.classify import ClassifyConfig
from convnext.tasks.detect import DetectConfig
from convnext.tasks.segment import SegmentConfig
from convnext.train.config import OptimConfig, TrainConfig

__all__ = ["DEMO", "DEMO_DETECTION", "DEMO_SEGMENTATION"]

DEMO = Recipe(
    name="demo",
    task=ClassifyConfig(
        model="convnext_atto",
        model_args={"depths": [2, 2, 4, 2], "dims": [24, 48, 96, 192]},
        layer_scale_init_value=0.1,
        drop_path_rate=0.05,
        smoothing=0.1,
        mixup=0.0,
        cutmix=0.0,
    ),
    data=DataConfig(
        path="elpv",
        image_size=128,
        in_chans=1,
        crop_pct=1.0,
        # A cell has no up: both flips; defects may be small or at the edge: large crops.
        augment=AugmentConfig(
            rand_augment="", hflip=0.5, vflip=0.5, scale=(0.6, 1.0), erase_prob=0.1
        ),
    ),
    optim=OptimConfig(
        lr=1e-3, weight_decay=0.05, batch_size=32, epochs=18, warmup_epochs=2.0, clip_grad=1.0
    ),
    train=TrainConfig(ema_decay=0.99, ema_warmup=True, eval_every_epochs=2),
    source="tuned on the validation part of the data",
)

DEMO_DETECTION = Recipe(
    name="demo_detection",
    task=DetectConfig(
        model="mask_rcnn_convnextv2_atto",
        masks=False,  # the trees have boxes only
        drop_path_rate=0.1,
        model_args={
            "fpn_dim": 96,
            "fc_dim": 256,
            "anchor_scale": 4.0,
            "roi_sampled": 128,
            "rpn_per_level": [500, 300],
            "rpn_proposals": [400, 200],
        },
    ),
    data=DetectionDataConfig(
        min_size=400,
        max_size=480,
        # Seen from above there is no up; the published crops and sizes, in proportion.
        augment=DetectionAugmentConfig(vflip=0.5),
    ),
    optim=OptimConfig(
        lr=1e-3,
        min_lr=0.0,
        weight_decay=0.05,
        batch_size=4,
        epochs=50,
        warmup_epochs=3.0,
        clip_grad=1.0,
    ),
    train=TrainConfig(ema_decay=0.99, ema_warmup=True, eval_every_epochs=10),
    source="tuned on the validation part of the data",
)

DEMO_SEGMENTATION = Recipe(
    name="demo_segmentation",
    task=SegmentConfig(
        model="upernet_convnextv2_atto",
        drop_path_rate=0.1,
        model_args={"head_dim": 64, "aux_dim": 32},
        dice_weight=0.5,
        loss_mean="labelled",
    ),
    data=SegmentationDataConfig(
        path="napari",
        in_chans=1,
        min_size=0,
        crop_size=96,
        window=0,
        # Under a microscope there is no up; a nucleus may well be the only thing in a crop.
        augment=SegmentationAugmentConfig(scale=(0.75, 1.5), vflip=0.5, cat_max_ratio=1.0),
    ),
    optim=OptimConfig(
        lr=1e-3,
        min_lr=0.0,
        weight_decay=0.05,
        batch_size=10,
        epochs=80,
        warmup_epochs=8.0,
        clip_grad=1.0,
    ),
    train=TrainConfig(ema_decay=0.99, ema_warmup=True, eval_every_epochs=10),
    source="tuned on the validation part of the data",
)
