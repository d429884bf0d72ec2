"""Three neighbouring slices and a noise level in HU → the middle slice with its noise lowered, in HU.

A small residual U-Net in units of the local noise: x = (slices − low-pass of the middle one)/level goes in, the noise
to be taken away comes out, is multiplied by the level and freed of its own low-pass. Three things therefore hold for
any weights, to rounding:

- offset: image + c gives output + c, as the low-pass takes c away before anything is divided;
- scale: image and level times a > 0 give output times a (Mohan et al. 2020, ICLR, argue for it; there by leaving out
  biases, here by the noise's own unit);
- mean: what is taken away has no local mean over `POOL` pixels, so that no region's HU can be moved.

The first layer's kernels sum to zero, so that a level that varies over the image lets no offset in either.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

POOL = 16
"""Pixels of the low-pass; rows and columns must be multiples of it."""
WIDTHS = (32, 64, 96)
LEAST_LEVEL_HU = 1e-3


class Residual(nn.Module):
    """x + conv(relu(conv(x)))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(functional.relu(self.first(x)))


class Firefly(nn.Module):
    """The network: `forward(image (n, 3, rows, columns), level (n, 1, rows, columns))` → (n, 1, rows, columns)."""

    def __init__(self, widths: tuple[int, int, int] = WIDTHS) -> None:
        super().__init__()
        fine, middle, coarse = widths
        self.head = nn.Conv2d(3, fine, 6, stride=2, padding=2)
        self.fine_in = Residual(fine)
        self.down = nn.Conv2d(fine, middle, 2, stride=2)
        self.middle_in = Residual(middle)
        self.down_again = nn.Conv2d(middle, coarse, 2, stride=2)
        self.coarse = nn.Sequential(Residual(coarse), Residual(coarse))
        self.up = nn.ConvTranspose2d(coarse, middle, 2, stride=2)
        self.middle_out = Residual(middle)
        self.up_again = nn.ConvTranspose2d(middle, fine, 2, stride=2)
        self.fine_out = nn.Sequential(Residual(fine), nn.ReLU())
        self.tail = nn.ConvTranspose2d(fine, 1, 6, stride=2, padding=2)
        nn.init.zeros_(self.tail.weight)

    def forward(self, image: Tensor, level: Tensor) -> Tensor:
        middle = image[:, 1:2]
        x = (image - low_pass(middle)) / torch.clamp(level, min=LEAST_LEVEL_HU)
        kernels = self.head.weight - self.head.weight.mean(dim=(1, 2, 3), keepdim=True)
        noise = self.tail(self._body(functional.conv2d(x, kernels, self.head.bias, stride=2, padding=2))) * level
        return middle - (noise - low_pass(noise))

    def _body(self, x: Tensor) -> Tensor:
        """The U-Net proper; bfloat16 inside where the processor is quicker with it and weights are being learned."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.training):
            fine = self.fine_in(x)
            middle = self.middle_in(self.down(fine))
            coarse = self.coarse(self.down_again(middle))
            middle = self.middle_out(middle + self.up(coarse))
            fine = self.fine_out(fine + self.up_again(middle))
        return fine.float()


def low_pass(image: Tensor) -> Tensor:
    """Means over squares of `POOL` pixels, joined linearly."""
    means = functional.avg_pool2d(image, POOL)
    return functional.interpolate(means, scale_factor=POOL, mode="bilinear", align_corners=False)
