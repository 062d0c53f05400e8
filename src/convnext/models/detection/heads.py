"""What looks at the features of a box: class, better box, mask."""

from typing import cast

from torch import Tensor, nn

from convnext.models.detection.neck import NamedConv

__all__ = ["BOX_BINS", "MASK_BINS", "BoxHead", "MaskHead"]

BOX_BINS, MASK_BINS = 7, 14


class ConvNormReLU(nn.Module):
    """A 3x3 convolution without bias, batch norm, ReLU."""

    def __init__(self, dim_in: int, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim_in, dim, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(dim)
        self.activation = nn.ReLU()
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(n, C_in, H, W) to (n, C, H, W)."""
        return cast(Tensor, self.activation(self.bn(self.conv(x))))


class BoxHead(nn.Module):
    """Features of a box to K + 1 logits, the last of them background, and deltas of each class.

    Args:
        dim: channels of the features.
        num_convs: 3x3 convolutions with batch norm before the linear layers.
        num_fcs: linear layers.
        fc_dim: width of the linear layers.
        num_classes: K.

    Source: ConvNeXt appendix A.3; the published configurations "2fc" (Mask R-CNN) and "4conv1fc"
        (Cascade), both with deltas for each class.
    """

    def __init__(
        self, dim: int, *, num_convs: int, num_fcs: int, fc_dim: int, num_classes: int
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        if num_convs:  # the published names have no empty list
            self.shared_convs = nn.ModuleList(ConvNormReLU(dim, dim) for _ in range(num_convs))
        first = dim * BOX_BINS**2
        self.shared_fcs = nn.ModuleList(
            nn.Linear(fc_dim if i else first, fc_dim) for i in range(num_fcs)
        )
        self.activation = nn.ReLU()
        self.fc_cls = nn.Linear(fc_dim, num_classes + 1)
        self.fc_reg = nn.Linear(fc_dim, 4 * num_classes)
        for fc in self.shared_fcs:
            nn.init.xavier_uniform_(cast(nn.Linear, fc).weight)
        nn.init.normal_(self.fc_cls.weight, std=0.01)
        nn.init.normal_(self.fc_reg.weight, std=0.001)
        for fc in (*self.shared_fcs, self.fc_cls, self.fc_reg):
            nn.init.zeros_(cast(nn.Linear, fc).bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(n, C, 7, 7) to logits (n, K + 1) and deltas (n, K, 4)."""
        for conv in getattr(self, "shared_convs", ()):
            x = conv(x)
        x = x.flatten(1)
        for fc in self.shared_fcs:
            x = self.activation(fc(x))
        return self.fc_cls(x), self.fc_reg(x).unflatten(1, (self.num_classes, 4))


class MaskHead(nn.Module):
    """Features of a box to the logits of a 28 x 28 mask for each class.

    Source: He et al., Mask R-CNN, figure 4 (right).
    """

    def __init__(self, dim: int, *, num_convs: int, num_classes: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(NamedConv(dim, dim, 3) for _ in range(num_convs))
        self.upsample = nn.ConvTranspose2d(dim, dim, 2, stride=2)
        self.conv_logits = nn.Conv2d(dim, num_classes, 1)
        self.activation = nn.ReLU()
        convs = [cast(NamedConv, conv).conv for conv in self.convs]
        for conv in (*convs, self.upsample, self.conv_logits):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(n, C, 14, 14) to (n, K, 28, 28)."""
        for conv in self.convs:
            x = self.activation(conv(x))
        x = self.activation(self.upsample(x))
        return cast(Tensor, self.conv_logits(x))
