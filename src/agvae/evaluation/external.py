"""Classical codecs that are separate programs (BPG, VTM and VVenC), and the lookup of every codec by its name."""

import shutil
import struct
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from agvae import extensions
from agvae.errors import ConfigError, DataError
from agvae.evaluation.classical import CLASSICAL_CODECS, ClassicalCodec, MissingCodecError
from agvae.evaluation.peers import PREFIX, peer_codec
from agvae.evaluation.ycbcr import rgb_to_ycbcr, subsample, upsample, ycbcr_to_rgb

_QPS = (47, 42, 37, 32, 27, 22, 17, 12)
_BITS = 10
_SIZE = struct.Struct(">HH")


class CodecError(DataError):
    """A program failed on a picture. The message has the last line that it wrote."""


class ExternalCodec(ABC):
    """An encoder and a decoder that are run once for each file, in a temporary folder. Quality is QP.

    `programs` are looked up on PATH. `settings` may hold the path of a program under its name, and the `timeout` of one
    call in seconds (None: no limit). Raises MissingCodecError if a program is not on PATH, and ConfigError if a path in
    `settings` does not exist. Encoding and decoding raise CodecError."""

    name: str
    description: str
    programs: tuple[str, str]
    source: str
    """Where to get the programs."""
    qualities = _QPS
    scale: range

    def __init__(self, settings: Mapping[str, Any] | None = None):
        self.settings = settings or {}
        limit = self.settings.get("timeout")
        if limit is not None and not (isinstance(limit, int | float) and limit > 0):
            raise ConfigError(
                f"programs.timeout must be a number of seconds above 0, or null for no limit, not {limit}"
            )
        self._paths = {program: self._find(program) for program in self.programs}

    def encode(self, image: Image.Image, quality: float) -> bytes:
        """The whole file of an RGB image at QP `quality`."""
        with TemporaryDirectory(prefix="agvae-") as folder:
            return self._encode(image, int(quality), Path(folder))

    def decode(self, data: bytes) -> Image.Image:
        """The RGB image in a file that `encode` made."""
        with TemporaryDirectory(prefix="agvae-") as folder:
            return self._decode(data, Path(folder))

    @abstractmethod
    def _encode(self, image: Image.Image, qp: int, folder: Path) -> bytes: ...

    @abstractmethod
    def _decode(self, data: bytes, folder: Path) -> Image.Image: ...

    def _find(self, program: str) -> Path:
        configured = self.settings.get(program)
        # VTM's own build appends Static.
        names = [configured] if configured else [program, f"{program}Static"]
        if found := next(filter(None, map(shutil.which, names)), None):
            return Path(found).absolute()
        if configured:
            raise ConfigError(f"programs.{program} must be the path of an executable program, not {configured}")
        raise MissingCodecError(
            f"{self.name} needs the program {program}: get {self.source}, then put it on PATH "
            f"or set programs.{program}=PATH"
        )

    def _run(self, program: str, arguments: list[Any], output: Path) -> bytes:
        """The content of the file `output` that the program writes. Its working folder is that of the file."""
        command = [str(argument) for argument in (self._paths[program], *arguments)]
        limit = self.settings.get("timeout")
        try:
            done = subprocess.run(
                command, cwd=output.parent, stdin=subprocess.DEVNULL, capture_output=True, timeout=limit, check=False
            )
        except subprocess.TimeoutExpired:
            raise CodecError(
                f"{self.name}: {program} was stopped after {limit:g} s; set a higher programs.timeout to allow more"
            ) from None
        except OSError as error:
            raise CodecError(f"{self.name}: {program} cannot be run: {error}") from error
        if done.returncode or not output.exists() or not output.stat().st_size:
            ending = f"ended with status {done.returncode}" if done.returncode else "wrote no file"
            raise CodecError(f"{self.name}: {program} {ending}{_last_line(done.stderr) or _last_line(done.stdout)}")
        return output.read_bytes()


class BPGCodec(ExternalCodec):
    """BPG with the field's usual settings: 4:4:4, 8 bit, its own BT.601 Y′CbCr, x265."""

    name = "bpg"
    description = "BPG, x265: 4:4:4, 8 bit, YCbCr; quality is QP"
    programs = ("bpgenc", "bpgdec")
    source = "libbpg from https://bellard.org/bpg"
    scale = range(51, -1, -1)

    def _encode(self, image: Image.Image, qp: int, folder: Path) -> bytes:
        source, coded = folder / "source.png", folder / "coded.bpg"
        image.save(source)
        options = ["-q", qp, "-f", 444, "-b", 8, "-c", "ycbcr", "-e", "x265"]
        return self._run("bpgenc", [*options, "-o", coded, source], coded)

    def _decode(self, data: bytes, folder: Path) -> Image.Image:
        coded, decoded = folder / "coded.bpg", folder / "decoded.png"
        coded.write_bytes(data)
        self._run("bpgdec", ["-o", decoded, coded], decoded)
        with Image.open(decoded, formats=["PNG"]) as image:
            return image.convert("RGB")


class _RawVideoCodec(ExternalCodec):
    """A video codec that reads and writes raw planes of 10 bits, two bytes a sample, the lower byte first.

    A file consists of the width and height of the picture, 16 bits each, which raw video lacks, and the bitstream."""

    def _encode(self, image: Image.Image, qp: int, folder: Path) -> bytes:
        source, coded = folder / "source.yuv", folder / "coded.bin"
        if max(image.size) >= 2**16:
            raise CodecError(
                f"{self.name}: {image.width}×{image.height} pixels exceed its limit of {2**16 - 1} on a side"
            )
        planes = self._planes(rgb_to_ycbcr(np.asarray(image), _BITS))
        source.write_bytes(b"".join(plane.astype("<u2").tobytes() for plane in planes))
        height, width = planes[0].shape
        return _SIZE.pack(*image.size) + self._run_encoder(source, coded, width, height, qp)

    def _decode(self, data: bytes, folder: Path) -> Image.Image:
        coded, decoded = folder / "coded.bin", folder / "decoded.yuv"
        width, height = _SIZE.unpack_from(data)
        coded.write_bytes(data[_SIZE.size :])
        raw = self._run_decoder(coded, decoded)
        shapes = self._shapes(width, height)
        ends = np.cumsum([rows * columns for rows, columns in shapes])
        if len(raw) != 2 * ends[-1]:
            raise CodecError(f"{self.name}: the decoder wrote {len(raw)} bytes instead of {2 * ends[-1]}")
        parts = np.split(np.frombuffer(raw, "<u2"), ends[:-1])
        planes = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
        return Image.fromarray(ycbcr_to_rgb(self._joined(planes)[:height, :width], _BITS))

    def _planes(self, ycbcr: np.ndarray) -> tuple[np.ndarray, ...]:
        """Y, Cb and Cr in the form that the encoder takes, from 4:4:4 code values (H, W, 3)."""
        return tuple(np.moveaxis(ycbcr, -1, 0))

    def _shapes(self, width: int, height: int) -> list[tuple[int, int]]:
        """Rows and columns of the planes that the decoder returns for a picture."""
        return [(height, width)] * 3

    def _joined(self, planes: list[np.ndarray]) -> np.ndarray:
        """4:4:4 code values (H, W, 3) of the decoder's planes."""
        return np.stack(planes, axis=-1)

    @abstractmethod
    def _run_encoder(self, source: Path, coded: Path, width: int, height: int, qp: int) -> bytes: ...

    @abstractmethod
    def _run_decoder(self, coded: Path, decoded: Path) -> bytes: ...


class VTMCodec(_RawVideoCodec):
    """VVC's reference software in its all-intra configuration, with BT.709 Y′CbCr in full range.

    `settings` may hold `vtm_config`, the path of encoder_intra_vtm.cfg. Without it, the file is looked up in a folder
    cfg above the program, where VTM's sources have it."""

    name = "vtm"
    description = "VVC, VTM all-intra: 4:4:4, 10 bit, BT.709 YCbCr; quality is QP"
    programs = ("EncoderApp", "DecoderApp")
    source = "VTM from https://vcgit.hhi.fraunhofer.de/jvet/VVCSoftware_VTM"
    scale = range(63, -1, -1)

    def __init__(self, settings: Mapping[str, Any] | None = None):
        super().__init__(settings)
        self._config = self._find_config()

    def _find_config(self) -> Path:
        name = "encoder_intra_vtm.cfg"
        if configured := self.settings.get("vtm_config"):
            if Path(configured).is_file():
                return Path(configured).absolute()
            raise ConfigError(f"programs.vtm_config must be the path of {name}, and there is no file {configured}")
        places = [folder / "cfg" / name for folder in self._paths["EncoderApp"].resolve().parents]
        if found := next(filter(Path.is_file, places), None):
            return found
        raise MissingCodecError(f"vtm needs the file {name} from the sources of VTM: set programs.vtm_config=PATH")

    def _run_encoder(self, source: Path, coded: Path, width: int, height: int, qp: int) -> bytes:
        files = ["-c", self._config, "-i", source, "-b", coded]
        picture = ["-wdt", width, "-hgt", height, "-fr", 1, "-f", 1, "--InputChromaFormat=444"]
        depth = [f"--InputBitDepth={_BITS}", f"--InternalBitDepth={_BITS}"]
        return self._run("EncoderApp", [*files, *picture, *depth, "--ConformanceWindowMode=1", "-q", qp], coded)

    def _run_decoder(self, coded: Path, decoded: Path) -> bytes:
        return self._run("DecoderApp", ["-b", coded, "-o", decoded, "-d", _BITS], decoded)


class VVenCCodec(_RawVideoCodec):
    """Fraunhofer's VVC encoder and decoder. They support only 4:2:0. For coding, the last row or column of a picture of
    odd size is repeated."""

    name = "vvenc"
    description = "VVC, VVenC slower, no perceptual QP: 4:2:0 (it has no other), 10 bit, BT.709 YCbCr; quality is QP"
    programs = ("vvencapp", "vvdecapp")
    source = "VVenC and VVdeC from https://github.com/fraunhoferhhi"
    scale = range(63, -1, -1)

    def _planes(self, ycbcr: np.ndarray) -> tuple[np.ndarray, ...]:
        height, width = ycbcr.shape[:2]
        return subsample(np.pad(ycbcr, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge"))

    def _shapes(self, width: int, height: int) -> list[tuple[int, int]]:
        rows, columns = (height + 1) // 2, (width + 1) // 2
        return [(2 * rows, 2 * columns), (rows, columns), (rows, columns)]

    def _joined(self, planes: list[np.ndarray]) -> np.ndarray:
        return upsample(*planes)

    def _run_encoder(self, source: Path, coded: Path, width: int, height: int, qp: int) -> bytes:
        picture = ["-i", source, "-s", f"{width}x{height}", "-c", f"yuv420_{_BITS}", "-r", 1, "-f", 1]
        return self._run("vvencapp", [*picture, "--preset", "slower", "-q", qp, "--qpa", 0, "-o", coded], coded)

    def _run_decoder(self, coded: Path, decoded: Path) -> bytes:
        return self._run("vvdecapp", ["-b", coded, "-o", decoded], decoded)


def _last_line(output: bytes) -> str:
    lines = [line.strip() for line in output.decode(errors="replace").splitlines()]
    return next((f": {line}" for line in reversed(lines) if line), "")


_EXTERNAL_CODECS = {codec.name: codec for codec in (BPGCodec, VTMCodec, VVenCCodec)}
CODEC_NAMES = (*CLASSICAL_CODECS, *_EXTERNAL_CODECS)
"""Names that `classical_codec` accepts, besides those of `agvae.evaluation.peers`."""


def classical_codec(name: str, programs: Mapping[str, Any] | None = None) -> ClassicalCodec:
    """The codec called `name`, ready to use.

    `programs` is `programs` of conf/evaluate.yaml: paths of external programs that are not on PATH. Raises
    MissingCodecError if the package or program of a codec is missing, and ConfigError for an unknown name or a path
    that does not exist. `name` may also be the import path of a user's own class, or the name of its entry point."""
    if name.startswith(PREFIX):
        return peer_codec(name)
    if name in _EXTERNAL_CODECS:
        return _EXTERNAL_CODECS[name](programs)
    if name in CLASSICAL_CODECS:
        CLASSICAL_CODECS[name].require()
        return CLASSICAL_CODECS[name]
    own = extensions.IMPORT_PATH.fullmatch(name)
    if not own and name not in extensions.names("codec"):
        raise ConfigError(
            f"codecs must be among {', '.join(CODEC_NAMES)}, {PREFIX}…, or package.module:name for one of your "
            f"own, not {name}"
        )
    try:
        if own:
            extensions.trust(name.partition(":")[0])
        return extensions.find("codec", name, {})()
    except ValueError as error:
        raise ConfigError(f"codecs: {error}") from error


def available_codecs(
    names: Sequence[str], programs: Mapping[str, Any] | None = None
) -> tuple[list[ClassicalCodec], dict[str, str]]:
    """The codecs of these names that can be run, each once, and how to get each of the others.

    Raises ConfigError as `classical_codec` does."""
    codecs, missing = [], {}
    for name in dict.fromkeys(names):
        try:
            codecs.append(classical_codec(name, programs))
        except MissingCodecError as error:
            missing[name] = str(error)
    return codecs, missing
