"""CompressAI's models as codecs to compare with: `compressai:ARCHITECTURE[:QUALITY]` or `compressai:CHECKPOINT.ckpt`.

A file is a header of ours and the strings of CompressAI's own entropy coder, all of which counts:

    2 bytes  width        2 bytes  height        2 bytes  quality, in steps of 1/1024
    4 bytes  length of the first string, for an architecture with a hyper-latent, which has two
    then the strings

The model is known to the decoder, as a shipped model of ours is. Everything runs on the CPU, where CompressAI's entropy
coder does.
"""

import struct
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from agvae.codec.model_file import ModelError, read_checkpoint
from agvae.errors import ConfigError, DataError
from agvae.evaluation.classical import MissingCodecError
from agvae.models.peers import PeerModel, check_quality, library, widths_by_quality
from agvae.models.trainable import is_peer
from agvae.quality import QUALITY_STEPS, half_levels, quality_from_fixed
from agvae.quality import check_quality as check_level

PREFIX = "compressai:"
_HEADER, _LENGTH = struct.Struct(">HHH"), struct.Struct(">I")


class PeerCodec:
    """Models of CompressAI as one codec: a fixed-rate model for each quality, or a variable-rate model for all.

    Qualities are CompressAI's 1 to 8 for fixed-rate models, and any number from 0 to the last level for a variable-rate
    one."""

    def __init__(self, name: str, models: Mapping[float, PeerModel]):
        """`models` maps each quality to its model. Its keys are the grid of the codec."""
        self.name = name
        self.models = models
        self.qualities: Sequence[float] = sorted(models)
        self.scale = self.qualities
        model = models[self.qualities[0]]
        kind = "variable rate" if model.variable else "fixed rate"
        self.description = f"CompressAI {library().__version__}, {model.config['architecture']}, {kind}"
        for each in dict.fromkeys(models.values()):
            if not _has_tables_by_quality(each):
                each.net.update(force=True)

    @torch.no_grad()
    def encode(self, image: Image.Image, quality: float) -> bytes:
        """The whole file of an RGB image."""
        if max(image.size) >= 2**16:
            raise DataError(f"{self.name}: {image.width}×{image.height} pixels are more than its header can hold")
        fixed = round(quality * QUALITY_STEPS)
        model, arguments = self._at(quality_from_fixed(fixed))
        x = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None] / 255
        strings = model.net.compress(F.pad(x, _padding(model, *image.size)), **arguments)["strings"]
        *first, last = [of_batch[0] for of_batch in strings]
        header = _HEADER.pack(*image.size, fixed)
        return header + b"".join(_LENGTH.pack(len(string)) + string for string in first) + last

    @torch.no_grad()
    def decode(self, data: bytes) -> Image.Image:
        """The RGB image in a file that `encode` made."""
        width, height, fixed = _HEADER.unpack_from(data)
        model, arguments = self._at(quality_from_fixed(fixed))
        position, strings = _HEADER.size, []
        if model.has_hyper_latent:
            (length,) = _LENGTH.unpack_from(data, position)
            position += _LENGTH.size + length
            strings.append([data[position - length : position]])
        strings.append([data[position:]])
        left, right, top, bottom = _padding(model, width, height)
        stride = model.net.downsampling_factor
        shape = (height + top + bottom) // stride, (width + left + right) // stride
        x_hat = model.net.decompress(strings, shape, **arguments)["x_hat"][0]
        x_hat = x_hat[:, top : top + height, left : left + width]
        return Image.fromarray((x_hat.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())

    def _at(self, quality: float) -> tuple[PeerModel, dict]:
        """The model of a quality, with its tables built, and the arguments that CompressAI's methods take for it."""
        model = self.models[quality]
        arguments = model.scaled(quality)
        if _has_tables_by_quality(model):
            model.net.update(force=True, scale=arguments["inputscale"])
        return model, arguments


def peer_codec(name: str) -> PeerCodec:
    """The codec called `name`, which begins with `compressai:`.

    Raises MissingCodecError if the package or its weights are not available, ConfigError for an architecture or quality
    that does not exist, and DataError for a checkpoint that cannot be used."""
    what = name.removeprefix(PREFIX)
    try:
        library()
    except ConfigError as error:
        raise MissingCodecError(f"{name}: {error}") from error
    if what.endswith(".ckpt"):
        return PeerCodec(name, _trained_here(what))
    architecture, _, asked = what.partition(":")
    try:
        models = _published(architecture, _number(asked) if asked else None)
    except (OSError, RuntimeError) as error:
        raise MissingCodecError(
            f"{name}: CompressAI cannot fetch its weights ({_reason(error)}); run this once with a network, "
            f"or copy its files into {torch.hub.get_dir()}/checkpoints"
        ) from error
    return PeerCodec(name, models)


def published_as(name: str) -> str | None:
    """The published curve of a codec of this name: that of the whole architecture, trained for MSE."""
    return f"{name.removeprefix(PREFIX).partition(':')[0]}-mse" if name.startswith(PREFIX) else None


def _published(architecture: str, quality: float | None) -> dict[float, PeerModel]:
    """CompressAI's own weights by quality: those of one, or of all."""
    known = widths_by_quality(architecture)
    if 0 not in known:
        chosen = list(known) if quality is None else [check_quality(architecture, quality)]
        return {one: PeerModel.pretrained(architecture, one) for one in chosen}
    model = PeerModel.pretrained(architecture, None)
    return dict.fromkeys(_qualities(model, quality), model)


def _trained_here(path: str) -> dict[float, PeerModel]:
    try:
        config, weights, _ = read_checkpoint(path)
    except ModelError as error:
        raise DataError(str(error)) from error
    if not is_peer(config):
        raise DataError(
            f"{path}: must be a checkpoint of model=compressai, but is one of AG-VAE; evaluate it with checkpoint="
        )
    model = PeerModel(**config)
    model.load_state_dict(weights)
    return dict.fromkeys(_qualities(model.eval(), None) if model.variable else [config["quality"]], model)


def _qualities(model: PeerModel, quality: float | None) -> list[float]:
    """The qualities of a variable-rate model: the given one, or all levels and the points half-way between them."""
    if quality is None:
        return half_levels(model.levels)
    try:
        check_level(quality, model.levels)
    except ValueError as error:
        raise ConfigError(f"{PREFIX}{model.config['architecture']}: {error}") from None
    return [round(quality * QUALITY_STEPS) / QUALITY_STEPS]


def _padding(model: PeerModel, width: int, height: int) -> tuple[int, int, int, int]:
    """Left, right, top and bottom padding: zeros around the picture, as in CompressAI's own evaluation."""
    from compressai.ops import compute_padding

    return compute_padding(height, width, min_div=model.net.downsampling_factor)[0]


def _has_tables_by_quality(model: PeerModel) -> bool:
    """Whether the prior of z has a different table at each quality, so that coding begins by building it."""
    return getattr(model.net, "vr_entbttlnck", False)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"{PREFIX}ARCHITECTURE:QUALITY must end in a number, not {text}") from None


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
