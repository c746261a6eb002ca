"""Places where a model's response is broken, and a calmer picture there.

On one-pixel stripes, chequerboards and saturated noise, g_a may produce values a hundred times those of any photograph:
20 bits per pixel for a picture of 3 dB. In such places the encoder gives it a blurred picture instead. The latent of
that costs almost nothing and decodes to the local mean. The format and the decoder are not affected.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from torch import Tensor

from agvae.models.agvae import AGVAE
from agvae.strides import STRIDE_Y

_BROKEN = 3.0
"""Bits per pixel, by the measure of `broken`, that no part of a photograph reaches. Of some hundred photographs tried
with four models, none exceeded 2.0. Text has 2.3, and broken places have 3.3 to 9.9."""

_REACH = 2
"""Positions around a broken one that are calmed with it, because g_a reads them too."""

_RADII = (4, 8, 16)
"""Radii of the blur in pixels, one for each attempt."""


def broken(model: AGVAE, y: Tensor) -> Tensor:
    """Positions (H/16, W/16) of y (1, M, H/16, W/16) at which Σ_c log2(1 + |y_c|·m_c) / 16² exceeds the bound.

    m are the gains of the last trained level."""
    gain = 1.0 if model.gain is None else model.gain.gain(float(model.levels - 1))[:, None, None]
    return torch.log2((y[0] * gain).abs_().add_(1)).sum(0) / STRIDE_Y**2 > _BROKEN


def calmed(model: AGVAE, pixels: np.ndarray, y: Tensor, analyze: Callable[[np.ndarray], Tensor]) -> Tensor:
    """y of the picture (H, W, 3) uint8, blurred where y is broken.

    `analyze` gives the y of pixels."""
    places = broken(model, y)
    mask = torch.zeros_like(places)
    for radius in _RADII:
        if not places.any():
            break
        mask |= F.max_pool2d(places[None, None].float(), 2 * _REACH + 1, 1, _REACH)[0, 0] > 0
        blurred = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius)))
        inside = mask.cpu().numpy().repeat(STRIDE_Y, 0).repeat(STRIDE_Y, 1)[: pixels.shape[0], : pixels.shape[1], None]
        y = analyze(np.where(inside, blurred, pixels))
        places = broken(model, y)
    return y
