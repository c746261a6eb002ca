"""The sides of a latent and of a hyper-latent, in pixels: the one place that says them."""

STRIDE_Y = 16
"""Pixels per latent of y, on each side."""

STRIDE_Z = 64
"""Pixels per hyper-latent of z, on each side: height and width of what the model takes are multiples of this."""

Y_PER_Z = STRIDE_Z // STRIDE_Y
"""Latents per hyper-latent, on each side."""
