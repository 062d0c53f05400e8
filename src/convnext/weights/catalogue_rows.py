"""Values of the catalogue: every official ConvNeXt V1, V2 and isotropic checkpoint.

Sources: tables 1, 2 and README of ConvNeXt; table 15 and README of ConvNeXt V2; re-evaluations by
timm (results-imagenet.csv) and, for the two IN-1K files at 384 px, by mmpretrain.
"""

PREFIX = "https://dl.fbaipublicfiles.com/convnext/"

# Which file is which: (start of the model's name, part of the file's name)
#   -> (tag, training data, resolution in px, classes).
KINDS: dict[tuple[str, str], tuple[str, str, int, int]] = {
    ("convnext", "1k_224_ema"): ("in1k", "IN-1K", 224, 1000),
    ("convnext", "1k_384"): ("in1k_384", "IN-1K", 384, 1000),
    ("convnext", "1k_224"): ("in1k_no_ema", "IN-1K", 224, 1000),
    ("convnext", "22k_224"): ("in22k", "IN-22K", 224, 21841),
    ("convnext", "22k_1k_224"): ("in22k_ft_in1k", "IN-22K, IN-1K", 224, 1000),
    ("convnext", "22k_1k_384"): ("in22k_ft_in1k_384", "IN-22K, IN-1K", 384, 1000),
    ("convnext", "22k_1k_224_ema"): ("in22k_ft_in1k", "IN-22K, IN-1K", 224, 1000),
    ("convnext", "22k_1k_384_ema"): ("in22k_ft_in1k_384", "IN-22K, IN-1K", 384, 1000),
    ("convnextv2", "1k_224_fcmae"): ("fcmae", "IN-1K", 224, 0),
    ("convnextv2", "1k_224_ema"): ("fcmae_ft_in1k", "IN-1K", 224, 1000),
    ("convnextv2", "22k_224_ema"): ("fcmae_ft_in22k_in1k", "IN-22K, IN-1K", 224, 1000),
    ("convnextv2", "22k_384_ema"): ("fcmae_ft_in22k_in1k_384", "IN-22K, IN-1K", 384, 1000),
    ("convnextv2", "22k_512_ema"): ("fcmae_ft_in22k_in1k_512", "IN-22K, IN-1K", 512, 1000),
}

# Folder of each V2 kind under PREFIX + "convnextv2/".
V2_FOLDERS = {
    "fcmae": "pt_only",
    "fcmae_ft_in1k": "im1k",
    "fcmae_ft_in22k_in1k": "im22k",
    "fcmae_ft_in22k_in1k_384": "im22k",
    "fcmae_ft_in22k_in1k_512": "im22k",
}

# Model, part of the file's name, published top-1 (%), re-evaluated top-1 and top-5 (%).
ROWS: tuple[tuple[str, str, float | None, float | None, float | None], ...] = (
    ("convnext_tiny", "1k_224_ema", 82.1, 82.066, 95.854),
    ("convnext_small", "1k_224_ema", 83.1, 83.144, 96.432),
    ("convnext_base", "1k_224_ema", 83.8, 83.838, 96.746),
    ("convnext_base", "1k_384", 85.1, 85.10, 97.34),
    ("convnext_large", "1k_224_ema", 84.3, 84.304, 96.892),
    ("convnext_large", "1k_384", 85.5, 85.50, 97.59),
    ("convnext_tiny", "22k_1k_224", 82.9, 82.900, 96.616),
    ("convnext_tiny", "22k_1k_384", 84.1, 84.098, 97.138),
    ("convnext_small", "22k_1k_224", 84.6, 84.582, 97.414),
    ("convnext_small", "22k_1k_384", 85.8, 85.752, 97.878),
    ("convnext_base", "22k_1k_224", 85.8, 85.814, 97.856),
    ("convnext_base", "22k_1k_384", 86.8, 86.826, 98.244),
    ("convnext_large", "22k_1k_224", 86.6, 86.612, 98.036),
    ("convnext_large", "22k_1k_384", 87.5, 87.456, 98.380),
    ("convnext_xlarge", "22k_1k_224_ema", 87.0, 86.970, 98.204),
    ("convnext_xlarge", "22k_1k_384_ema", 87.8, 87.764, 98.552),
    ("convnext_tiny", "22k_224", None, None, None),
    ("convnext_small", "22k_224", None, None, None),
    ("convnext_base", "22k_224", None, None, None),
    ("convnext_large", "22k_224", None, None, None),
    ("convnext_xlarge", "22k_224", None, None, None),
    ("convnext_tiny", "1k_224", None, None, None),
    ("convnext_small", "1k_224", None, None, None),
    ("convnext_base", "1k_224", None, 83.71, None),
    ("convnext_large", "1k_224", None, None, None),
    ("convnext_isotropic_small", "1k_224_ema", 79.7, None, None),
    ("convnext_isotropic_base", "1k_224_ema", 82.0, None, None),
    ("convnext_isotropic_large", "1k_224_ema", 82.6, None, None),
    ("convnextv2_atto", "1k_224_ema", 76.7, 76.644, 93.042),
    ("convnextv2_femto", "1k_224_ema", 78.5, 78.476, 93.984),
    ("convnextv2_pico", "1k_224_ema", 80.3, 80.304, 95.082),
    ("convnextv2_nano", "1k_224_ema", 81.9, 81.856, 95.740),
    ("convnextv2_tiny", "1k_224_ema", 83.0, 82.948, 96.286),
    ("convnextv2_base", "1k_224_ema", 84.9, 84.890, 97.088),
    ("convnextv2_large", "1k_224_ema", 85.8, 85.762, 97.574),
    ("convnextv2_huge", "1k_224_ema", 86.3, 86.260, 97.752),
    ("convnextv2_nano", "22k_224_ema", 82.1, 82.038, None),
    ("convnextv2_nano", "22k_384_ema", 83.4, 83.366, None),
    ("convnextv2_tiny", "22k_224_ema", 83.9, 83.904, None),
    ("convnextv2_tiny", "22k_384_ema", 85.1, 85.098, None),
    ("convnextv2_base", "22k_224_ema", 86.8, 86.752, None),
    ("convnextv2_base", "22k_384_ema", 87.7, 87.638, None),
    ("convnextv2_large", "22k_224_ema", 87.3, 87.266, None),
    ("convnextv2_large", "22k_384_ema", 88.2, 88.180, None),
    ("convnextv2_huge", "22k_384_ema", 88.7, 88.666, None),
    ("convnextv2_huge", "22k_512_ema", 88.9, 88.860, None),
    ("convnextv2_atto", "1k_224_fcmae", None, None, None),
    ("convnextv2_femto", "1k_224_fcmae", None, None, None),
    ("convnextv2_pico", "1k_224_fcmae", None, None, None),
    ("convnextv2_nano", "1k_224_fcmae", None, None, None),
    ("convnextv2_tiny", "1k_224_fcmae", None, None, None),
    ("convnextv2_base", "1k_224_fcmae", None, None, None),
    ("convnextv2_large", "1k_224_fcmae", None, None, None),
    ("convnextv2_huge", "1k_224_fcmae", None, None, None),
)
