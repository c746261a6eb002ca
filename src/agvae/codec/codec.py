"""The codec: pictures to bytes and back, with one model at every rate."""

import math
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from agvae import metrics
from agvae.codec import bitstream, model_file, rate_control
from agvae.codec.bitstream import BitstreamError, Header
from agvae.codec.effort import STEPS, improve
from agvae.codec.model_file import ModelFile
from agvae.codec.rate_control import Trial
from agvae.codec.refinement import Latents, Refiner, Saved
from agvae.codec.tiling import Tile, run_in_tiles, tile_side, tiles
from agvae.codec.trials import BORDERS, ScaleCensus, Trimmer, sample, spare
from agvae.entropy.coder import CodingError, Decoder, Encoder
from agvae.entropy.tables import TOTAL, scale_index
from agvae.errors import ConfigError, DataError
from agvae.images import MAX_PIXELS, Picture, picture_of
from agvae.models.agvae import AGVAE, Parameters
from agvae.models.context import Cell, SpatialContext
from agvae.models.exact import is_exact
from agvae.models.transforms import STRIDE_Y, STRIDE_Z
from agvae.quality import QUALITY_STEPS, quality_from_fixed, quality_to_fixed

_CELLS = STRIDE_Z // STRIDE_Y
"""Latents per hyper-latent, on each side."""

_BYTES_PER_BYTE = 2**14
"""Bytes that a tile of h_s may take for one of the stream, when decoding: enough for whole tiles at common rates."""

Progress = Callable[[float], None]

_ANALYSIS = 0.7
"""Share of the time that g_a or g_s takes, about; coding the latent takes the rest."""

_SEARCH_STARTS = 0.02
"""Share of the time after which a search for a better latent starts, about."""


class Latent(NamedTuple):
    """A picture after g_a, before its gain: y (1, M, H/16, W/16), and the picture itself."""

    y: Tensor
    picture: Picture
    z_symbols: Tensor | None = None
    """Symbols of z (1, N, H/64, W/64) in place of those that h_a gives: of a latent that was refined."""


class Coding(NamedTuple):
    """A latent coded at one quality: the file to be, its symbols of z, and ŷ as its decoder will have it."""

    header: Header
    encoder: Encoder
    z_symbols: Tensor
    y_hat: Tensor

    def pack(self) -> bytes:
        """The file."""
        return bitstream.pack(self.header, self.encoder.finish())


class Codec:
    """Compresses and decompresses pictures with a trained model.

    Every file names the quality at which it was made, so one model and one decoder serve all rates. Networks run in
    tiles, so that memory beyond the picture and its latent does not grow with the picture.
    """

    def __init__(self, model: ModelFile, name: str = "agvae", device: str | torch.device = "cpu"):
        """Raises ConfigError for a device whose float64 rounds otherwise than IEEE 754."""
        self.name = name
        self.device = torch.device(device)
        if self.device.type != "cpu" and not is_exact(self.device):
            raise ConfigError(f"device {device} cannot be used: its float64 is not exact")
        self._file = model
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

    @property
    def model(self) -> AGVAE:
        """The model as it codes: in exact arithmetic, in evaluation mode."""
        return self._model

    @torch.inference_mode()
    def analyze(self, image: Image.Image | np.ndarray | Tensor | Picture, progress: Progress | None = None) -> Latent:
        """Run g_a once, for any number of calls of `compress` and `estimate`.

        `image` is a PIL image, an (H, W, 3) uint8 array, a (3, H, W) float tensor in [0, 1], which is rounded to
        8 bits, or a `Picture`. Raises ValueError for another shape or type."""
        picture = _picture(image)
        pixels = picture.pixels
        height, width = (side // STRIDE_Y for side in _padded(*pixels.shape[:2]))
        y = torch.empty(1, self._model.M, height, width, device=self.device)

        def read(rows: slice, columns: slice) -> Tensor:
            # Past its right and lower borders the picture is continued by its last pixels.
            down, right = (
                np.minimum(np.arange(part.start * STRIDE_Y, part.stop * STRIDE_Y), side - 1)
                for part, side in ((rows, pixels.shape[0]), (columns, pixels.shape[1]))
            )
            x = torch.from_numpy(pixels[down[:, None], right]).to(self.device)
            # As it lies in memory, channels last.
            return x.permute(2, 0, 1)[None].float() / 255

        def write(tile: Tile, part: Tensor) -> None:
            y[:, :, tile.top : tile.bottom, tile.left : tile.right] = part

        halo = self._model.reach.g_a
        layout = tiles(height, width, self._tile_side(halo), halo)
        run_in_tiles(self._model.g_a, read, write, layout, 1, progress)
        return Latent(y, picture)

    @torch.inference_mode()
    def compress(
        self,
        image: Image.Image | np.ndarray | Tensor | Picture | Latent,
        *,
        quality: float | None = None,
        bpp: float | None = None,
        bytes: int | None = None,
        psnr: float | None = None,
        ms_ssim: float | None = None,
        effort: int = 0,
        progress: Progress | None = None,
        saved: Callable[[float], None] | None = None,
    ) -> bytes:
        """The picture as the bytes of an .agv file that meets one target.

        quality: from 0, the smallest file, to levels − 1, and any value between; bpp (bits per pixel), bytes: the
        whole file is never larger, and at most 1 % smaller; psnr (dB), ms_ssim: that of the decoded 8-bit picture in
        RGB is never less, and at most 0.05 dB or 0.0005 more. Alpha, EXIF and ICC profile of a PIL image or
        `Picture` are kept.

        effort: how long to search for a better latent, from 0, not at all, to 3 (see agvae.codec.effort). The target
        holds at every effort. `progress` is called with the share done, `saved` with the bits saved by the search.

        Raises TargetError, naming what this picture can have, for a rate or metric out of range, and ValueError for
        a quality out of range or when not exactly one target is given."""
        targets = {"quality": quality, "bpp": bpp, "bytes": bytes, "psnr": psnr, "ms_ssim": ms_ssim}
        given = [(name, value) for name, value in targets.items() if value is not None]
        if len(given) != 1:
            raise ValueError(f"give one target of {', '.join(targets)}, not {len(given)}")
        ((name, target),) = given
        if effort not in range(len(STEPS)):
            raise ValueError(f"effort must be 0 to {len(STEPS) - 1}, not {effort}")
        if name == "quality":
            quality_to_fixed(target, self.levels)
        elif not (math.isfinite(target) and target > 0):
            raise ValueError(f"{name} {target} is no target")
        analysis = _SEARCH_STARTS if effort else _ANALYSIS
        latent = image if isinstance(image, Latent) else self.analyze(image, _part(progress, 0, analysis))
        file = self._meet(latent, name, target)
        if not effort:
            return file
        share, saved = _part(progress, analysis, 1), saved or (lambda bits: None)

        def report(done: float, bits: float) -> None:
            if share is not None:
                share(done)
            saved(bits)

        return improve(self, file, latent, partial(self._meet, name=name, target=target), name, STEPS[effort], report)

    def refine(self, latent: Latent, quality: int, steps: int, progress: Saved | None = None) -> Latent:
        """A latent with a smaller R + λ·D at `quality`, in fixed point, or the same, after `steps` steps.

        Raises ConfigError if the model's file does not say which loss it was trained for."""
        value = quality_from_fixed(quality)
        with torch.inference_mode():
            z_symbols, y_bar = self._hyper(latent, value)
            gain = self._model.scale(torch.ones_like(y_bar[:, :, :1, :1]), value)
        latents = self._refiner.refine(latent.picture.pixels, Latents(y_bar, z_symbols), value, steps, progress)
        return latent._replace(y=latents.y_bar / gain, z_symbols=latents.z_symbols)

    def cost(self, file: bytes, picture: Picture) -> float:
        """R + λ·D of a file, in bits, at its own quality."""
        quality = quality_from_fixed(bitstream.unpack(file)[0].quality)
        pixels = picture.pixels.shape[0] * picture.pixels.shape[1]
        return 8 * len(file) + self._refiner.lagrangian(quality) * pixels * self.distortion(file, picture)

    def distortion(self, file: bytes, picture: Picture) -> float:
        """What the model's training loss calls the distortion of the picture that `file` decodes to."""
        return self._refiner.distortion(picture.pixels, np.asarray(self.decompress(file).convert("RGB")))

    @cached_property
    def _refiner(self) -> Refiner:
        with torch.inference_mode(False):
            return Refiner(self._file.build_float(self.device), self.info)

    def _meet(self, latent: Latent, name: str, target: float) -> bytes:
        """The file that meets one target."""
        header = self._header(latent.picture)
        if name == "quality":
            return self._encode(latent, header, quality_to_fixed(target, self.levels)).pack()
        last = (self.levels - 1) * QUALITY_STEPS
        if name in ("bpp", "bytes"):
            unit = header.width * header.height / 8 if name == "bpp" else 1
            words = (lambda size: f"{size / unit:.4f} bpp") if name == "bpp" else "{} bytes".format
            return self._fit(latent, header, max(1, int(target * unit)), last, words)
        if name == "ms_ssim" and min(header.width, header.height) < metrics.MS_SSIM_SMALLEST_SIDE:
            raise rate_control.TargetError(
                f"MS-SSIM is not defined for a picture of {header.width}×{header.height}: five scales need sides "
                f"of at least {metrics.MS_SSIM_SMALLEST_SIDE} pixels"
            )
        measure = getattr(metrics, name)

        def trial(fixed: int) -> tuple[bytes, float]:
            coding = self._encode(latent, header, fixed)
            decoded = self._synthesize(coding.y_hat, fixed, header.width, header.height)
            if header.grey:
                decoded = np.asarray(Picture(decoded, grey=True).to_pil().convert("RGB"))
            return coding.pack(), measure(latent.picture.pixels, decoded)

        return rate_control.smallest_reaching(trial, target, last, name)

    @torch.inference_mode()
    def decompress(self, data: bytes, *, max_pixels: int = MAX_PIXELS, progress: Progress | None = None) -> Image.Image:
        """The picture that `data` holds, with its alpha, EXIF and ICC profile; L or LA if it was greyscale.

        Raises BitstreamError if it is not an .agv file, damaged, made by another model, or larger than
        `max_pixels`. `progress` is called with the share done."""
        header, stream = bitstream.unpack(data)
        self._check(header, len(stream), max_pixels)
        height, width = (side // STRIDE_Z for side in _padded(header.height, header.width))
        try:
            decoder = Decoder(self._tables, stream, header.checksum)
            z_symbols = torch.from_numpy(decoder.pop_z(height * width)).view(1, -1, height, width)

            def pop(cell: Cell, parameters: Parameters) -> Tensor:
                symbols = decoder.pop_y(*self._indices(parameters))
                return torch.from_numpy(symbols).to(self.device, torch.float32).view_as(parameters.mu)

            y_hat = torch.empty(1, self._model.M, height * _CELLS, width * _CELLS, device=self.device)
            z_symbols = z_symbols.to(self.device, torch.float32)
            memory = _BYTES_PER_BYTE * len(stream)
            for rows, psi, need in self._psi(z_symbols, quality_from_fixed(header.quality), memory):
                y_hat[:, :, rows] = self._model.decode(psi, pop, need)
            decoder.finish()
        except CodingError as error:
            raise BitstreamError(f"the file is damaged: {error}") from error
        # Before the pixels, which take longest.
        alpha = bitstream.unpack_alpha(header.alpha, header.width, header.height)
        exif, icc = bitstream.unpack_block(header.exif), bitstream.unpack_block(header.icc)
        pixels = self._synthesize(y_hat, header.quality, header.width, header.height, _part(progress, 1 - _ANALYSIS, 1))
        return Picture(pixels, header.grey, alpha, exif, icc).to_pil()

    @torch.inference_mode()
    def estimate(self, image: Image.Image | np.ndarray | Tensor | Picture | Latent, *, quality: float) -> float:
        """The model's own rate for the symbols that `compress` would code, in bits, without header or coder."""
        latent = image if isinstance(image, Latent) else self.analyze(image)
        return self._bits(latent, quality_from_fixed(quality_to_fixed(quality, self.levels))).item()

    def _fit(self, latent: Latent, header: Header, size: int, last: int, words: Callable[[int], str]) -> bytes:
        """The file of at most `size` bytes, and at most 1 % less, at a quality from 0 to `last` in fixed point.

        `words` is a size as an error names it."""
        census, part = ScaleCensus(self._tables, self._model), sample(latent.y)
        guess = census.guess(latent.y)
        kept: dict[int, Tensor] = {}

        def code(fixed: int, anchor: int) -> Trial:
            trimmer = Trimmer(self._tables)
            coding = self._encode(latent, header, fixed, kept.get(anchor), census, trimmer)
            if anchor not in kept:
                kept.clear()
                kept[anchor] = coding.z_symbols

            def trim(excess: int) -> bytes:
                # A stream is up to a byte longer than its bits.
                trimmer.lower(coding.encoder, 8 * (excess + 1))
                return coding.pack()

            return Trial(coding.pack(), census.curve(fixed), trim)

        measure = None
        if part is not None:
            # The sample's size by what y alone says of the whole and of it.
            ratio = guess - census.guess(part) - BORDERS

            def measure(fixed: int) -> float:
                bits = self._bits(Latent(part, latent.picture), quality_from_fixed(fixed)).item()
                return math.log(bits / 8) + np.interp(fixed, np.linspace(0, last, len(ratio)), ratio)

        return rate_control.largest_within(code, size, last, guess, spare(self._model), measure, words)

    def _encode(
        self,
        latent: Latent,
        header: Header,
        fixed: int,
        z_symbols: Tensor | None = None,
        census: ScaleCensus | None = None,
        trimmer: Trimmer | None = None,
    ) -> Coding:
        """Code a latent at a quality in fixed point, with its own symbols of z or those of another quality.

        `census` counts the scales, `trimmer` is offered the symbols of the last pass."""
        header = header._replace(quality=fixed)
        encoder = Encoder(self._tables, header.checksum)
        quality = quality_from_fixed(fixed)
        if z_symbols is None:
            z_symbols, y_bar = self._hyper(latent, quality)
        else:
            y_bar = self._model.scale(latent.y, quality)
        encoder.push_z(_integers(z_symbols).reshape(z_symbols.shape[1], -1))

        # In the place of ȳ, of which no row is read again, but never in that of the latent.
        y_hat = torch.empty_like(y_bar) if y_bar is latent.y else y_bar
        for rows, psi, need in self._psi(z_symbols, quality):
            values = y_bar[:, :, rows].flatten(2).transpose(1, 2)

            def push(cell: Cell, symbols: Tensor, parameters: Parameters, values: Tensor = values) -> None:
                left, right = self._indices(parameters)
                integers = _integers(symbols)
                number = encoder.push_y(integers, left, right)
                if census is not None:
                    census.count(cell.channels, left, right)
                if trimmer is not None and cell.last:
                    rests = values[:, cell.positions, cell.channels] - parameters.mu - symbols
                    trimmer.offer(number, integers, left, right, rests.flatten().cpu().numpy())

            y_hat[:, :, rows] = self._model.encode(y_bar[:, :, rows], psi, push, need)
        return Coding(header, encoder, z_symbols, y_hat)

    def _bits(self, latent: Latent, quality: Tensor | float) -> Tensor:
        """The model's rate for a latent, in bits, (B,) float64."""
        z_symbols, y_bar = self._hyper(latent, quality)
        bits = _bits(self._model.prior(z_symbols + self._model.prior.medians))

        def add(cell: Cell, symbols: Tensor, parameters: Parameters) -> None:
            bits.add_(_bits(self._model.likelihood(symbols + parameters.mu, parameters)))

        for rows, psi, need in self._psi(z_symbols, quality):
            self._model.encode(y_bar[:, :, rows], psi, add, need)
        return bits

    def _hyper(self, latent: Latent, quality: Tensor | float) -> tuple[Tensor, Tensor]:
        """Symbols of z, and ȳ, at a quality that a stream can carry."""
        y_bar = self._model.scale(latent.y, quality)
        if latent.z_symbols is not None:
            return latent.z_symbols, y_bar
        return self._model.hyper_symbols(self._model.hyper_analyze(y_bar, quality)), y_bar

    def _psi(
        self, z_symbols: Tensor, quality: Tensor | float, memory: float = math.inf
    ) -> Iterator[tuple[slice, Tensor, Callable[[Tensor], None]]]:
        """h_s's features, as runs of rows of y that can be coded one after another.

        A run is (rows, features, need): the features are empty until `need` is called with the flat positions at which
        they will be read, and are then computed in whole tiles, so that a stream which ends too early is found out
        before they all are. Without context a run is a row of tiles, so that memory stays small; a context's order goes
        through the whole picture. Exact arithmetic makes features the same however they are cut. A tile takes at most
        `memory` bytes, about, but as many as the smallest do."""
        z_hat = z_symbols + self._model.prior.medians
        batch, _, height, width = z_hat.shape
        channels, halo = self._model.context.hyper_channels, self._model.reach.h_s
        # In float64, some five tensors of the last layer's size.
        side = tile_side(batch * _CELLS**2 * channels * 8 * 5, halo, self.device, memory)
        layout = tiles(height, width, side, halo)
        in_rows = not isinstance(self._model.context, SpatialContext)
        for run in [list(run) for _, run in groupby(layout, lambda tile: tile.top)] if in_rows else [layout]:
            top, bottom = run[0].top, run[-1].bottom
            psi = torch.empty(
                (batch, channels, (bottom - top) * _CELLS, width * _CELLS),
                device=self.device,
                memory_format=torch.channels_last,
            )
            owner = np.empty((bottom - top, width), dtype=np.int32)
            for index, tile in enumerate(run):
                owner[tile.top - top : tile.bottom - top, tile.left : tile.right] = index
            yield slice(top * _CELLS, bottom * _CELLS), psi, self._on_demand(z_hat, quality, psi, run, owner)

    def _on_demand(
        self, z_hat: Tensor, quality: Tensor | float, psi: Tensor, run: list[Tile], owner: np.ndarray
    ) -> Callable[[Tensor], None]:
        """Fills in `psi`, of a run of tiles, those that hold given positions; `owner` is each hyper-latent's tile."""
        missing, top = dict(enumerate(run)), run[0].top

        def write(tile: Tile, part: Tensor) -> None:
            psi[
                :,
                :,
                (tile.top - top) * _CELLS : (tile.bottom - top) * _CELLS,
                tile.left * _CELLS : tile.right * _CELLS,
            ] = part

        def need(positions: Tensor) -> None:
            if not missing:
                return
            row, column = np.divmod(positions.numpy(), psi.shape[3])
            wanted = np.unique(owner[row // _CELLS, column // _CELLS]).tolist()
            run_in_tiles(
                lambda z: self._model.hyper_synthesize(z, quality),
                lambda rows, columns: z_hat[:, :, rows, columns],
                write,
                [missing.pop(index) for index in wanted if index in missing],
                _CELLS,
            )

        return need

    def _synthesize(
        self, y_hat: Tensor, fixed: int, width: int, height: int, progress: Progress | None = None
    ) -> np.ndarray:
        """The decoded picture, (height, width, 3) uint8."""
        quality = quality_from_fixed(fixed)
        pixels = np.empty((height, width, 3), dtype=np.uint8)

        def write(tile: Tile, part: Tensor) -> None:
            part = part[0].clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
            target = pixels[tile.top * STRIDE_Y :, tile.left * STRIDE_Y :][: part.shape[0], : part.shape[1]]
            target[:] = part[: target.shape[0], : target.shape[1]]

        halo = self._model.reach.g_s
        run_in_tiles(
            lambda y: self._model.synthesize(y, quality),
            lambda rows, columns: y_hat[:, :, rows, columns].contiguous(memory_format=torch.channels_last),
            write,
            tiles(*y_hat.shape[2:], self._tile_side(halo), halo),
            STRIDE_Y,
            progress,
        )
        return pixels

    def _tile_side(self, halo: int) -> int:
        return tile_side(self._model.bytes_per_pixel * STRIDE_Y**2, halo, self.device)

    def _header(self, picture: Picture) -> Header:
        """The header of a picture, at quality 0."""
        return Header(
            self.fingerprint,
            width=picture.pixels.shape[1],
            height=picture.pixels.shape[0],
            quality=0,
            grey=picture.grey,
            alpha=bitstream.pack_alpha(picture.alpha),
            exif=bitstream.pack_block(picture.exif),
            icc=bitstream.pack_block(picture.icc),
        )

    def _check(self, header: Header, length: int, max_pixels: int) -> None:
        """Raise BitstreamError for a header that cannot be right, before memory is spent on it."""
        if header.fingerprint != self.fingerprint:
            raise BitstreamError(
                f"the file was made by the model {header.fingerprint.hex()}, not by {self.name} "
                f"({self.fingerprint.hex()})"
            )
        # A side under 64 takes what one of 64 does: a picture of 1×2^28 would take 64 times as much as it seems to.
        if max(header.width, STRIDE_Z) * max(header.height, STRIDE_Z) > max(max_pixels, STRIDE_Z**2):
            raise BitstreamError(f"a picture of {header.width}×{header.height} is over {max_pixels} pixels, the limit")
        if header.quality > (self.levels - 1) * QUALITY_STEPS:
            quality = quality_from_fixed(header.quality)
            raise BitstreamError(f"quality {quality:g} is past the model's last level, {self.levels - 1}")
        # Even symbols that are nearly certain cost a little; a stream of so few bytes cannot hold them all.
        height, width = _padded(header.height, header.width)
        least = self._least_bits * height * width / STRIDE_Z**2
        if 8 * length + 64 < least:
            raise BitstreamError(f"a stream of {length} bytes cannot hold a picture of {header.width}×{header.height}")

    @property
    def _least_bits(self) -> float:
        """Fewest bits that the symbols of one hyper-latent position and its latents can take."""
        tables = self._tables
        frequencies = np.diff(np.pad(tables.sign, ((0, 0), (1, 1)), constant_values=(0, TOTAL)), axis=1)
        y = -math.log2(frequencies.max() / TOTAL) * self._model.M * _CELLS**2
        rows = zip(tables.z_start[:-1], tables.z_start[1:], strict=True)
        return y - sum(math.log2(np.diff(tables.z[start:stop]).max() / TOTAL) for start, stop in rows)

    def _indices(self, parameters: Parameters) -> tuple[np.ndarray, np.ndarray]:
        left = scale_index(parameters.sigma_l, self._tables.scales).flatten().cpu().numpy()
        if parameters.sigma_r is parameters.sigma_l:
            return left, left
        return left, scale_index(parameters.sigma_r, self._tables.scales).flatten().cpu().numpy()


def _part(progress: Progress | None, start: float, stop: float) -> Progress | None:
    """Progress of a part of the work, from the share `start` to `stop` of the whole."""
    return progress and (lambda share: progress(start + (stop - start) * share))


def _bits(likelihoods: Tensor) -> Tensor:
    return -likelihoods.log2().flatten(1).sum(1, dtype=torch.float64)


def _integers(symbols: Tensor) -> np.ndarray:
    return symbols.to(torch.int32).flatten().cpu().numpy()


def _padded(*sides: int) -> tuple[int, ...]:
    """Sides rounded up to what the model takes."""
    return tuple(side + -side % STRIDE_Z for side in sides)


def _picture(image: Image.Image | np.ndarray | Tensor | Picture) -> Picture:
    if isinstance(image, Picture):
        return image
    if isinstance(image, Image.Image):
        return picture_of(image)
    if isinstance(image, Tensor):
        if not image.is_floating_point() or image.ndim != 3 or image.shape[0] != 3 or not image.numel():
            raise ValueError(f"a tensor must be (3, H, W) float, not {tuple(image.shape)} {image.dtype}")
        if not (image.min() >= 0 and image.max() <= 1):
            raise ValueError("a tensor must lie in [0, 1]")
        return Picture(image.mul(255).round().to(torch.uint8).permute(1, 2, 0).cpu().contiguous().numpy())
    if not isinstance(image, np.ndarray):
        raise ValueError(f"an image is a PIL image, an array or a tensor, not {type(image).__name__}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"an array must be (H, W, 3) uint8, not {image.shape} {image.dtype}")
    return Picture(image)


def open_codec(name_or_path: str, device: str = "cpu") -> Codec:
    """The codec of a shipped model, a .safetensors file or a training checkpoint, as the commands take them.

    Raises ConfigError for a device that cannot be had or has no exact float64, and DataError for a model that cannot
    be used."""
    try:
        torch.zeros(1, dtype=torch.float64, device=device).cpu()
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ConfigError(f"device {device} cannot be used: {str(error).splitlines()[0].partition('. ')[0]}") from None
    load = Codec.from_checkpoint if name_or_path.endswith(".ckpt") else Codec.load
    try:
        return load(name_or_path, device)
    except (OSError, ValueError) as error:
        raise DataError(str(error)) from error
