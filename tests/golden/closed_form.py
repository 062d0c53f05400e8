"""Weights and images in closed form: what the golden numbers of the published code were made of."""

import math

import torch

from convnext.weights.layouts.official import OFFICIAL

BODY = "backbone.body."
SIZES = [(96, 120), (128, 100)]
PADDED = 128
GAINS = {
    "fc_cls": 5.0,
    "conv_seg": 5.0,
    "rpn_cls": 3.0,
    "conv_logits": 8.0,
    "fc_reg": 0.5,
    "rpn_reg": 0.5,
}


def official(name):
    if not name.startswith(BODY):
        return name
    ours = name.removeprefix(BODY)
    return "backbone." + next(iter(OFFICIAL.write({ours: torch.zeros(1)})))


def closed_form(name, shape, number):
    wave = torch.sin(0.7 * torch.arange(math.prod(shape), dtype=torch.float64) + number)
    wave = wave.reshape(shape)
    if name.endswith("gamma"):
        return 0.3 + 0.1 * wave
    if name.endswith("running_var"):
        return 1 + 0.3 * wave
    if len(shape) >= 2:
        gain = next((gain for part, gain in GAINS.items() if part in name), 1.0)
        return wave * gain * math.sqrt(2 / math.prod(shape[1:]))
    return 1 + 0.1 * wave if name.endswith("weight") else 0.1 * wave


def fill(model):
    """Load closed-form weights: tensors are numbered in the order of their published names."""
    state, number = {}, 0
    names = {official(name): name for name in model.state_dict() if ".body.head" not in name}
    for published, name in sorted(names.items()):
        shape = model.state_dict()[name].shape
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(0)
            continue
        state[name] = closed_form(published, shape, number)
        number += 1
    model.load_state_dict(state)
    return model


def images():
    batch = torch.zeros(2, 3, PADDED, PADDED, dtype=torch.float64)
    for i, (height, width) in enumerate(SIZES):
        y = torch.arange(height, dtype=torch.float64)[:, None]
        x = torch.arange(width, dtype=torch.float64)
        for c in range(3):
            wave = torch.cos(0.07 * x * (c + 1) + 0.3 * i)
            batch[i, c, :height, :width] = 2 * torch.sin(0.11 * y * (i + 1) + 0.7 * c) * wave
    return batch


def close(found, expected, rtol=0.0, atol=1e-6):
    found = torch.as_tensor(found, dtype=torch.float64)
    expected = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol)
