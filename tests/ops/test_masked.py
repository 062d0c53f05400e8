"""Masks, and the depthwise convolution that sees visible positions only."""

import pytest
import torch

from convnext.ops.masked import (
    Visible,
    masked_depthwise,
    masked_depthwise_reference,
    random_mask,
)


def test_as_many_visible_cells_in_every_image():
    mask = random_mask(50, (7, 7), 0.6)
    assert mask.shape == (50, 7, 7)
    assert (~mask).sum((1, 2)).tolist() == [19] * 50  # of 49 cells int(49 · 0.4) stay
    assert len({tuple(m.flatten().tolist()) for m in mask}) == 50
    assert not random_mask(2, (3, 5), 0.0).any()
    # every cell is hidden about as often as any other
    often = random_mask(4000, (4, 4), 0.5).float().mean(0)
    assert (often - 0.5).abs().max() < 0.05


def test_masks_are_reproducible():
    masks = [random_mask(3, (4, 6), 0.6, generator=torch.Generator().manual_seed(5)) for _ in "ab"]
    assert torch.equal(*masks)


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 1.5])
def test_ratio_out_of_range(ratio):
    with pytest.raises(ValueError, match="must be in"):
        random_mask(1, (7, 7), ratio)


def test_all_cells_hidden():
    with pytest.raises(ValueError, match="leaves none of 1 x 2 cells visible"):
        random_mask(1, (1, 2), 0.6)


@pytest.mark.parametrize("side", [1, 2, 4])
def test_rows_lie_where_they_say(side):
    mask = random_mask(3, (2, 3), 0.5)
    at = Visible.of(mask, side)
    maps = torch.randn(3, 5, 2 * side, 3 * side)
    full = mask.repeat_interleave(side, 1).repeat_interleave(side, 2)
    spread = at.scatter(at.gather(maps))
    torch.testing.assert_close(spread, maps * ~full[:, None], rtol=0, atol=0)
    # cell by cell: a cell's rows stand together
    first = at.index[: side * side].view(side, side)
    assert torch.equal(first[0], first[0, 0] + torch.arange(side))
    assert torch.equal(first[:, 0], first[0, 0] + 3 * side * torch.arange(side))


def test_uneven_masks_are_refused():
    mask = torch.zeros(2, 2, 2, dtype=torch.bool)
    mask[0, 0, 0] = True
    with pytest.raises(ValueError, match="same number of visible cells"):
        Visible.of(mask, 2)
    with pytest.raises(ValueError, match="at least one"):
        Visible.of(torch.ones(2, 2, 2, dtype=torch.bool), 2)


def by_site(rows, weight, bias, at):
    """Site by site: the sum over visible neighbours."""
    places = {int(i): r for r, i in enumerate(at.index)}
    reach = weight.shape[-1] // 2
    out = []
    for index in at.index.tolist():
        image, place = divmod(index, at.height * at.width)
        y, x = divmod(place, at.width)
        total = bias.clone()
        for dy in range(-reach, reach + 1):
            for dx in range(-reach, reach + 1):
                if 0 <= y + dy < at.height and 0 <= x + dx < at.width:
                    other = (image * at.height + y + dy) * at.width + x + dx
                    if other in places:
                        total = total + weight[:, 0, dy + reach, dx + reach] * rows[places[other]]
        out.append(total)
    return torch.stack(out)


@pytest.mark.parametrize(("kernel", "side"), [(3, 1), (7, 2), (7, 4)])
def test_forward_and_gradients_against_every_site(kernel, side):
    at = Visible.of(random_mask(2, (2, 3), 0.5), side)
    inputs = [
        torch.randn(len(at.index), 4, dtype=torch.float64, requires_grad=True),
        torch.randn(4, 1, kernel, kernel, dtype=torch.float64, requires_grad=True),
        torch.randn(4, dtype=torch.float64, requires_grad=True),
    ]
    expected = by_site(*inputs, at)
    upstream = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, inputs, upstream)
    for function in (masked_depthwise, masked_depthwise_reference):
        out = function(*inputs, at)
        torch.testing.assert_close(out, expected)
        for got, want in zip(torch.autograd.grad(out, inputs, upstream), wanted, strict=True):
            torch.testing.assert_close(got, want)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision(dtype):
    at = Visible.of(random_mask(2, (3, 3), 0.6), 4)
    rows, weight, bias = torch.randn(len(at.index), 8), torch.randn(8, 1, 7, 7), torch.randn(8)
    exact = masked_depthwise_reference(rows, weight, bias, at)
    low = masked_depthwise(rows.to(dtype), weight.to(dtype), bias.to(dtype), at)
    assert low.dtype == dtype
    assert (low.float() - exact).abs().max() < 0.05 * exact.abs().max()
    with torch.autocast("cpu", dtype=dtype):
        assert masked_depthwise(rows, weight, bias, at).dtype == dtype


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # of opcheck's own clones
def test_opcheck():
    at = Visible.of(random_mask(2, (2, 2), 0.5), 2)
    rows = torch.randn(len(at.index), 3, requires_grad=True)
    weight, bias = torch.randn(3, 1, 3, 3, requires_grad=True), torch.randn(3, requires_grad=True)
    arguments = (rows, weight, bias, at.index, [at.num_maps, at.height, at.width])
    torch.library.opcheck(torch.ops.convnext.masked_depthwise.default, arguments)
