"""Of values seen in batches: in which range 8 bits lose least."""

import torch
from torch import Tensor

__all__ = ["Histogram"]

BINS = 8192
STEPS = 255
TOPS = [k / 64 for k in range(2, 65)]  # of the largest value seen, where values are cut off
BOTTOMS = [k / 8 for k in range(1, 9)]  # of the smallest


class Histogram:
    """Counts of values on -reach ... reach; the reach doubles as larger values come."""

    def __init__(self) -> None:
        self.reach = 0.0
        self.low, self.high = 0.0, 0.0  # 0 is always within
        self.counts = torch.zeros(BINS, dtype=torch.float64)

    def add(self, values: Tensor) -> None:
        """Count these too.

        Raises:
            ValueError: Some are not finite.
        """
        low, high = (float(v) for v in values.aminmax())
        if not abs(low) + abs(high) < float("inf"):
            raise ValueError(
                "the network gives values that are not finite for the calibration images; "
                "look for NaN in the images and in the weights"
            )
        self.low, self.high = min(self.low, low), max(self.high, high)
        largest = max(-low, high)
        if self.reach == 0:
            self.reach = largest
        while self.reach < largest:
            self.reach *= 2
            middle = self.counts.view(-1, 2).sum(1)
            self.counts = torch.zeros_like(self.counts)
            self.counts[BINS // 4 : 3 * BINS // 4] = middle
        if self.reach:
            self.counts += torch.histc(values.float(), BINS, -self.reach, self.reach)

    def best_range(self) -> tuple[float, int]:
        """Scale and zero point with the least squared error of rounding and of cutting off."""
        if self.high == self.low:
            return 1.0, 0
        centres = (torch.arange(BINS, dtype=torch.float64) + 0.5) * (2 * self.reach / BINS)
        centres -= self.reach
        best = (float("inf"), 0.0, 0.0)
        for bottom in BOTTOMS if self.low < 0 else [1.0]:
            for top in TOPS:
                low, high = bottom * self.low, top * self.high
                cut = (centres - centres.clamp(low, high)).square()
                inside = ((centres >= low) & (centres <= high)) * ((high - low) / STEPS) ** 2 / 12
                best = min(best, (float((self.counts * (cut + inside)).sum()), low, high))
        _, low, high = best
        scale = max((high - low) / STEPS, 1e-30)
        return scale, round(-low / scale)
