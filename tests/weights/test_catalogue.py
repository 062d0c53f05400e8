"""The catalogue of published checkpoints."""

import pytest

from convnext.models.registry import list_models, model_config
from convnext.weights import find, format_table, list_weights
from convnext.weights.catalogue import default_tag, tags

PREFIX = "https://dl.fbaipublicfiles.com/convnext/"


def test_every_official_checkpoint_is_there():
    """16 fine-tuned or trained V1, 5 with 22K head, 4 without EMA, 3 isotropic; V2: 8, 8, 10."""
    entries = list_weights()
    assert len(entries) == 54
    assert len({entry.url for entry in entries}) == 54
    assert len({(entry.model, entry.tag) for entry in entries}) == 54
    assert {entry.model for entry in entries} <= set(list_models())
    count = {tag: sum(entry.tag == tag for entry in entries) for tag in {e.tag for e in entries}}
    assert count == {
        "in1k": 7,
        "in1k_384": 2,
        "in22k_ft_in1k": 5,
        "in22k_ft_in1k_384": 5,
        "in22k": 5,
        "in1k_no_ema": 4,
        "fcmae": 8,
        "fcmae_ft_in1k": 8,
        "fcmae_ft_in22k_in1k": 4,
        "fcmae_ft_in22k_in1k_384": 5,
        "fcmae_ft_in22k_in1k_512": 1,
    }


ENTRIES = """
convnext_tiny in1k convnext_tiny_1k_224_ema.pth 82.1 82.066
convnext_xlarge in22k_ft_in1k_384 convnext_xlarge_22k_1k_384_ema.pth 87.8 87.764
convnext_base in22k convnext_base_22k_224.pth None None
convnext_large in1k_no_ema convnext_large_1k_224.pth None None
convnext_isotropic_small in1k convnext_iso_small_1k_224_ema.pth 79.7 None
convnextv2_atto fcmae convnextv2/pt_only/convnextv2_atto_1k_224_fcmae.pt None None
convnextv2_pico fcmae_ft_in1k convnextv2/im1k/convnextv2_pico_1k_224_ema.pt 80.3 80.304
convnextv2_huge fcmae_ft_in22k_in1k_512 convnextv2/im22k/convnextv2_huge_22k_512_ema.pt 88.9 88.86
"""


@pytest.mark.parametrize("line", ENTRIES.strip().splitlines())
def test_entries(line):
    model, tag, file, *scores = line.split()
    entry = find(model, tag)
    assert entry.url == PREFIX + file
    assert [str(entry.top1), str(entry.top1_again)] == scores


def test_classes_and_preprocessing():
    for entry in list_weights():
        expected = 21841 if entry.tag == "in22k" else 0 if entry.tag == "fcmae" else 1000
        assert entry.num_classes == expected
        size = int(entry.tag[-3:]) if entry.tag[-3:] in ("384", "512") else 224
        assert entry.resolution == entry.preprocessing.image_size == size
        assert entry.preprocessing.squashes == (size >= 384)
        assert entry.preprocessing.crop_pct == (0.875 if size == 224 else 1.0)


def test_licences_are_those_of_the_weights():
    for entry in list_weights():
        v2 = entry.model.startswith("convnextv2")
        assert entry.licence == ("CC BY-NC 4.0" if v2 else "MIT")
        assert ("non-commercial use only" in entry.notice()) == v2


def test_default_is_imagenet_1k_at_224_px():
    assert default_tag("convnext_tiny") == "in1k"
    assert default_tag("convnext_isotropic_large") == "in1k"
    assert default_tag("convnext_xlarge") == "in22k_ft_in1k"
    assert default_tag("convnextv2_huge") == "fcmae_ft_in1k"
    for name in {entry.model for entry in list_weights()}:
        entry = find(name, default_tag(name))
        assert (entry.resolution, entry.num_classes) == (224, model_config(name).num_classes)


def test_unknown_tags_are_answered_with_the_known():
    with pytest.raises(ValueError, match=r"convnext_tiny has no weights 'in21k'; did you mean"):
        find("convnext_tiny", "in21k")
    with pytest.raises(ValueError, match="Available: " + ", ".join(tags("convnextv2_huge"))):
        find("convnextv2_huge", "xyz")
    with pytest.raises(ValueError, match=r"no published weights for convnext_atto; models"):
        default_tag("convnext_atto")
    with pytest.raises(ValueError, match=r"unknown model 'convnext_tny'; did you mean"):
        find("convnext_tny", "in1k")


def test_patterns():
    assert {entry.tag for entry in list_weights("convnext_tiny")} == set(tags("convnext_tiny"))
    assert len(list_weights("*.fcmae")) == 8
    assert list_weights("convnext_*.in1k")[0].model == "convnext_tiny"


def test_table_for_the_command_line():
    lines = format_table(list_weights("convnextv2_tiny")).splitlines()
    assert len(lines) == 5
    assert "fcmae_ft_in1k*" in lines[1]  # the default is marked
    assert "CC BY-NC 4.0" in lines[1]
    assert "82.948" in lines[1]
