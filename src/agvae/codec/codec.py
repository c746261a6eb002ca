"""The codec: pictures to bytes and back, with one model at every rate."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from agvae.codec import bitstream, model_file
from agvae.codec.bitstream import BitstreamError, Header
from agvae.codec.model_file import ModelFile
from agvae.entropy.coder import CodingError, Decoder, Encoder
from agvae.entropy.tables import scale_index
from agvae.images import to_rgb
from agvae.models.agvae import Parameters
from agvae.models.context import Cell
from agvae.models.gain import quality_from_fixed, quality_to_fixed
from agvae.models.transforms import STRIDE_Z

MAX_PIXELS = 2**28
"""Largest picture, in pixels, that is decoded unless the caller allows more."""


class Latent(NamedTuple):
    """A picture after g_a, before its gain: y (1, M, H/16, W/16), and the picture's own size in pixels."""

    y: Tensor
    width: int
    height: int


class Codec:
    """Compresses and decompresses pictures with a trained model.

    Every file names the quality at which it was made, so one model and one decoder serve all rates."""

    def __init__(self, model: ModelFile, name: str = "agvae", device: str | torch.device = "cpu"):
        self.name = name
        self.device = torch.device(device)
        self.fingerprint = model.fingerprint
        self.config = model.config
        self.info = model.info
        self._tables = model.tables
        self._model = model.build(self.device)
        self.levels = self._model.levels

    @classmethod
    def load(cls, name_or_path: str | Path, device: str | torch.device = "cpu") -> "Codec":
        """The codec of a model that comes with the package, by name, or of a .safetensors file.

        Raises ModelError if there is no such model or the file is not sound."""
        return cls(model_file.load(name_or_path), Path(name_or_path).stem, device)

    @classmethod
    def from_checkpoint(cls, path: str | Path, device: str | torch.device = "cpu") -> "Codec":
        """The codec of a training checkpoint, as it would be after export. Raises ModelError."""
        return cls(model_file.from_checkpoint(path), Path(path).stem, device)

    @torch.inference_mode()
    def analyze(self, image: Image.Image | np.ndarray | Tensor) -> Latent:
        """Run g_a once, for any number of calls of `compress` and `estimate`.

        `image` is a PIL image, an (H, W, 3) uint8 array or a (3, H, W) float tensor in [0, 1]. Raises ValueError
        for another shape or type."""
        x = _to_tensor(image).to(self.device)
        height, width = x.shape[2:]
        x = F.pad(x, (0, -width % STRIDE_Z, 0, -height % STRIDE_Z), mode="replicate")
        return Latent(self._model.g_a(x.contiguous(memory_format=torch.channels_last)), width, height)

    @torch.inference_mode()
    def compress(self, image: Image.Image | np.ndarray | Tensor | Latent, *, quality: float) -> bytes:
        """The picture as the bytes of an .agv file, at `quality` in [0, levels − 1] (higher is better and larger).

        Raises ValueError for a quality out of range."""
        fixed = quality_to_fixed(quality, self.levels)
        latent = image if isinstance(image, Latent) else self.analyze(image)
        encoder = Encoder(self._tables)

        def push(cell: Cell, symbols: Tensor, parameters: Parameters) -> None:
            encoder.push_y(_integers(symbols), *self._indices(parameters))

        z_symbols, psi, y_bar = self._hyper(latent, fixed)
        encoder.push_z(_integers(z_symbols).reshape(z_symbols.shape[1], -1))
        self._model.encode(y_bar, psi, push)
        return bitstream.pack(Header(self.fingerprint, latent.width, latent.height, fixed), encoder.finish())

    @torch.inference_mode()
    def decompress(self, data: bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
        """The picture that `data` holds.

        Raises BitstreamError if it is not an .agv file, damaged, made by another model, or larger than
        `max_pixels`."""
        header, stream = bitstream.unpack(data)
        if header.fingerprint != self.fingerprint:
            raise BitstreamError(
                f"the file was made by the model {header.fingerprint.hex()}, not by {self.name} "
                f"({self.fingerprint.hex()})"
            )
        if header.width * header.height > max_pixels:
            raise BitstreamError(f"a picture of {header.width}×{header.height} is over {max_pixels} pixels")
        quality = quality_from_fixed(header.quality)
        if quality > self.levels - 1:
            raise BitstreamError(f"quality {quality:g} is past the model's last level, {self.levels - 1}")
        height, width = (side + -side % STRIDE_Z for side in (header.height, header.width))
        try:
            decoder = Decoder(self._tables, stream)
            z_symbols = decoder.pop_z(height // STRIDE_Z * (width // STRIDE_Z))
            z_symbols = torch.from_numpy(z_symbols).to(self.device, torch.float32)
            z_symbols = z_symbols.view(1, -1, height // STRIDE_Z, width // STRIDE_Z)

            def pop(cell: Cell, parameters: Parameters) -> Tensor:
                symbols = decoder.pop_y(*self._indices(parameters))
                return torch.from_numpy(symbols).to(self.device, torch.float32).view_as(parameters.mu)

            y_hat = self._model.decode(self._psi(z_symbols, quality), pop)
            decoder.finish()
        except CodingError as error:
            raise BitstreamError(f"the file is damaged: {error}") from error
        x_hat = self._model.synthesize(y_hat.contiguous(memory_format=torch.channels_last), quality)
        x_hat = x_hat[0, :, : header.height, : header.width].clamp(0, 1).mul(255).round().to(torch.uint8)
        return Image.fromarray(x_hat.permute(1, 2, 0).cpu().numpy())

    @torch.inference_mode()
    def estimate(self, image: Image.Image | np.ndarray | Tensor | Latent, *, quality: float) -> float:
        """The model's own rate for the symbols that `compress` would code, in bits, without header or coder."""
        latent = image if isinstance(image, Latent) else self.analyze(image)
        z_symbols, psi, y_bar = self._hyper(latent, quality_to_fixed(quality, self.levels))
        bits = -self._model.prior(z_symbols + self._model.prior.medians).log2().sum(dtype=torch.float64)

        def add(cell: Cell, symbols: Tensor, parameters: Parameters) -> None:
            nonlocal bits
            likelihoods = self._model.likelihood(symbols + parameters.mu, parameters)
            bits = bits - likelihoods.log2().sum(dtype=torch.float64)

        self._model.encode(y_bar, psi, add)
        return bits.item()

    def _hyper(self, latent: Latent, fixed: int) -> tuple[Tensor, Tensor, Tensor]:
        """Symbols of z, h_s's features and ȳ, at the quality that the stream will carry."""
        quality = quality_from_fixed(fixed)
        y_bar = self._model.scale(latent.y, quality)
        z_symbols = (self._model.hyper_analyze(y_bar, quality) - self._model.prior.medians).round()
        return z_symbols, self._psi(z_symbols, quality), y_bar

    def _psi(self, z_symbols: Tensor, quality: float) -> Tensor:
        z_hat = (z_symbols + self._model.prior.medians).contiguous(memory_format=torch.channels_last)
        return self._model.hyper_synthesize(z_hat, quality)

    def _indices(self, parameters: Parameters) -> tuple[np.ndarray, np.ndarray]:
        left = scale_index(parameters.sigma_l).flatten().cpu().numpy()
        if parameters.sigma_r is parameters.sigma_l:
            return left, left
        return left, scale_index(parameters.sigma_r).flatten().cpu().numpy()


def _integers(symbols: Tensor) -> np.ndarray:
    return symbols.to(torch.int32).flatten().cpu().numpy()


def _to_tensor(image: Image.Image | np.ndarray | Tensor) -> Tensor:
    """(1, 3, H, W) float32 in [0, 1]."""
    if isinstance(image, Image.Image):
        image = np.array(to_rgb(image))
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ValueError(f"an array must be (H, W, 3) uint8, not {image.shape} {image.dtype}")
        return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    if not isinstance(image, Tensor):
        raise ValueError(f"an image is a PIL image, an array or a tensor, not {type(image).__name__}")
    if not image.is_floating_point() or image.ndim != 3 or image.shape[0] != 3 or not image.numel():
        raise ValueError(f"a tensor must be (3, H, W) float, not {tuple(image.shape)} {image.dtype}")
    if image.min() < 0 or image.max() > 1:
        raise ValueError("a tensor must lie in [0, 1]")
    return image[None].float()
