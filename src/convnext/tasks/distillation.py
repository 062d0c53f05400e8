"""Knowledge distillation: a frozen teacher, and the loss that makes a student answer like it."""

from collections.abc import Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Teacher", "nkd_loss"]


def nkd_loss(
    student: Tensor, teacher: Tensor, label: Tensor, *, gamma: float, temperature: float
) -> Tensor:
    """Normalised knowledge distillation (NKD), the mean over the images.

        L = - T_t log S_t - γ τ² Σ_{i≠t} N(T^τ)_i log N(S^τ)_i

    S and T are the softmax of the student's and the teacher's logits, t is the label,
    N(P^τ)_i = exp(p_i / τ) / Σ_{j≠t} exp(p_j / τ) is the softmax at temperature τ over the classes
    other than t. The second part has no gradient where both agree on those classes; the first one
    always pulls towards the label, by as much as the teacher believes in it.

    Args:
        student: (N, K) logits z.
        teacher: (N, K) logits; no gradient flows into them.
        label: (N,) int64.
        gamma: γ, at least 0.
        temperature: τ, above 0.

    Returns:
        A scalar.

    Source: Yang et al., "From Knowledge Distillation to Self-Knowledge Distillation", ICCV 2023,
    section 3.1 (γ = 1.5, τ = 1 for ResNets, γ = 1 for DeiT).
    """
    teacher = teacher.detach()
    trust = teacher.softmax(1).gather(1, label[:, None]).squeeze(1)  # (N,) T_t
    target = (trust * F.cross_entropy(student, label, reduction="none")).mean()
    is_label = F.one_hot(label, student.shape[1]).bool()  # (N, K)
    masked = [(z / temperature).masked_fill(is_label, -torch.inf) for z in (student, teacher)]
    log_s = masked[0].log_softmax(1).masked_fill(is_label, 0.0)  # else 0 * -inf
    others = -(masked[1].softmax(1) * log_s).sum(1).mean()
    return target + gamma * temperature**2 * others


class Teacher:
    """A frozen network that answers for the images of a batch.

    It is no module, so that a task that holds one neither trains, averages, wraps nor saves it;
    copies of the task share it. It runs under the autocast of its caller.

    Args:
        network: Logits of normalised images; put into evaluation mode here. It stays on its device.
        mean: Its mean of each channel, in units of pixel value / 255; likewise the next three.
        std: Its standard deviation.
        student_mean: Those that the images of the batch are normalised with.
        student_std: Likewise; images x become (x std_s + mean_s - mean) / std.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
        student_mean: Sequence[float] = (),
        student_std: Sequence[float] = (),
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self._scale_shift: tuple[Tensor, Tensor] | None = None
        if (*mean, *std) != (*student_mean, *student_std):
            like = next(network.parameters())
            ours, theirs = (
                torch.tensor(pair, dtype=torch.float32, device=like.device)[..., None, None]
                for pair in ((mean, std), (student_mean, student_std))
            )
            self._scale_shift = theirs[1] / ours[1], (theirs[0] - ours[0]) / ours[1]

    def __call__(self, images: Tensor) -> Tensor:
        """(N, C, H, W) images, normalised for the student, to (N, K) logits in fp32."""
        with torch.no_grad():
            if self._scale_shift is not None:
                scale, shift = self._scale_shift
                images = images * scale + shift
            logits: Tensor = self.network(images)
        return logits.float()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self
