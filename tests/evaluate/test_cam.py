"""Grad-CAM against a gradient computed by hand, and the pictures made of it."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from convnext.evaluate.cam import colormap, grad_cam, overlay, seen_image
from convnext.models.registry import build_model


class Quadratic(nn.Module):
    """Features are the image at half size; logit c = sum over k, h, w of m_ck A_khw^2 / 2."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Parameter(torch.tensor([[1.0, 0.0], [-1.0, 2.0], [-1.0, -1.0]]))
        self.dropout = nn.Dropout(0.9)

    def forward_features(self, x):
        return self.dropout(x[:, :, ::2, ::2])

    def forward_head(self, x):
        return x.square().sum(dim=(2, 3)) @ self.mix.T / 2


def test_cam_equals_the_gradient_by_hand():
    images = torch.rand(2, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    net = Quadratic().train()
    classes = torch.tensor([0, 1])
    cam = grad_cam(net, images, classes)
    assert cam.shape == (2, 8, 8)
    features = images[:, :, ::2, ::2]
    # dy_c / dA_khw = m_ck A_khw, hence w_k = m_ck * mean of A_k.
    weight = net.mix[classes] * features.mean(dim=(2, 3))
    by_hand = (weight[:, :, None, None] * features).sum(dim=1, keepdim=True).clamp_min(0)
    by_hand = nn.functional.interpolate(by_hand, (8, 8), mode="bilinear")[:, 0]
    by_hand = by_hand / by_hand.amax(dim=(1, 2), keepdim=True)
    torch.testing.assert_close(cam, by_hand.detach())
    assert net.training
    assert net.mix.grad is None


def test_nothing_speaks_for_a_class_that_every_feature_contradicts():
    cam = grad_cam(Quadratic(), torch.ones(1, 2, 8, 8), torch.tensor([2]))
    assert torch.equal(cam, torch.zeros(1, 8, 8))


def test_convnext_cam_under_inference_mode_and_batching():
    torch.manual_seed(0)
    net = build_model("convnext_atto", depths=(1, 1, 1, 1), dims=(8, 16, 32, 64), num_classes=3)
    images = torch.randn(3, 3, 64, 96)
    with torch.inference_mode():
        cam = grad_cam(net, images, torch.tensor([0, 1, 2]))
    assert cam.shape == (3, 64, 96)
    assert float(cam.min()) >= 0
    assert cam.amax(dim=(1, 2)).tolist() == pytest.approx([1, 1, 1])
    torch.testing.assert_close(grad_cam(net, images[1:2], torch.tensor([1]))[0], cam[1])
    predicted = net.eval()(images).argmax(1)
    torch.testing.assert_close(grad_cam(net, images), grad_cam(net, images, predicted))


def test_cam_finds_the_object_that_decides():
    """A network that sums red over the map looks at the red square, wherever it is."""
    net = Quadratic()
    images = torch.zeros(1, 2, 32, 32)
    images[0, 0, 20:28, 4:12] = 1.0
    cam = grad_cam(net, images, torch.tensor([0]))[0]
    assert float(cam[22:26, 6:10].min()) > 0.9
    assert float(cam[:16].max()) == 0


def test_users_mistakes_are_named():
    with pytest.raises(ValueError, match="Linear has not both"):
        grad_cam(nn.Linear(2, 2), torch.ones(1, 2, 8, 8))
    with pytest.raises(ValueError, match=r"class 3 is outside 0\.\.2"):
        grad_cam(Quadratic(), torch.ones(1, 2, 8, 8), torch.tensor([3]))


def test_colormap_grows_evenly_lighter():
    table = colormap()
    assert table.shape == (256, 3)
    rgb = table / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    steps = np.diff(np.cbrt(luminance[::16]))  # CIE lightness goes with the cube root
    assert (steps > 0).all()
    assert steps.max() < 3 * steps.min()


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_overlay_is_rgb_of_the_size_of_the_picture(mode):
    image = Image.new(mode, (40, 24), 128 if mode == "L" else (128,) * len(mode))
    cam = torch.zeros(6, 10)
    cam[:, 5:] = 1.0
    picture = np.asarray(overlay(image, cam)).astype(int)
    assert picture.shape == (24, 40, 3)
    np.testing.assert_array_equal(picture[:, :10], 128)  # nothing there: the picture in grey
    assert (picture[:, -10:, 0] - picture[:, -10:, 2] > 50).all()


def test_seen_image_undoes_the_normalisation():
    pixels = torch.randint(0, 256, (3, 5, 7), generator=torch.Generator().manual_seed(0))
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    tensor = (pixels / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    np.testing.assert_array_equal(
        np.asarray(seen_image(tensor, mean, std)), pixels.permute(1, 2, 0).numpy()
    )
    grey = seen_image(torch.zeros(1, 4, 4), (0.5,), (0.25,))
    assert grey.mode == "RGB"
    assert grey.getpixel((0, 0)) == (128, 128, 128)
