"""Classical codecs that are programs of their own, BPG, VTM and VVenC, and every codec to compare with by its name."""

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
    """A program that failed on a picture; the message has the last line that it wrote."""


class ExternalCodec(ABC):
    """An encoder and a decoder that are run once for each file, in a temporary folder; quality is QP.

    `programs` are looked for on PATH; `settings` may have the path of one under its name, and has the `timeout` of
    one call in seconds (None: no limit). Raises MissingCodecError for a program that is not on PATH, and
    ConfigError for a path of `settings` where there is none; encoding and decoding raise CodecError.
    """

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
        """The RGB image in a file of `encode`'s."""
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
        """What the program writes to the file `output`, its working folder being that file's."""
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
    """BPG as the field compares with it: 4:4:4, 8 bit, BT.601 Y′CbCr of its own making, x265."""

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
    """A video codec that takes and gives raw planes of 10 bits, two bytes a sample, the lower first.

    A file is the picture's width and height, 16 bits each, which raw video lacks, and the bitstream.
    """

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
        """Y, Cb and Cr as the encoder takes them, of 4:4:4 code values (H, W, 3)."""
        return tuple(np.moveaxis(ycbcr, -1, 0))

    def _shapes(self, width: int, height: int) -> list[tuple[int, int]]:
        """Rows and columns of the planes that the decoder gives of a picture."""
        return [(height, width)] * 3

    def _joined(self, planes: list[np.ndarray]) -> np.ndarray:
        """4:4:4 code values (H, W, 3) of the decoder's planes."""
        return np.stack(planes, axis=-1)

    @abstractmethod
    def _run_encoder(self, source: Path, coded: Path, width: int, height: int, qp: int) -> bytes: ...

    @abstractmethod
    def _run_decoder(self, coded: Path, decoded: Path) -> bytes: ...


class VTMCodec(_RawVideoCodec):
    """VVC's reference software in its all-intra configuration, fed with BT.709 Y′CbCr in full range.

    `settings` may have `vtm_config`, the path of encoder_intra_vtm.cfg; without it the file is looked for in a
    folder cfg above the program, where VTM's sources have it.
    """

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
    """Fraunhofer's VVC encoder and decoder. They know 4:2:0 only; a picture of odd size gets its last row or column
    twice for coding."""

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
"""Names that `classical_codec` takes, beside those of `agvae.evaluation.peers`."""


def classical_codec(name: str, programs: Mapping[str, Any] | None = None) -> ClassicalCodec:
    """The codec called `name`, ready to be used.

    `programs` is `programs` of conf/evaluate.yaml: paths of external programs, for those that are not on PATH.
    Raises MissingCodecError for a codec whose package or program is not there, and ConfigError for an unknown
    name or a path that leads nowhere. `name` may also be the import path of a class of the user's own, or its entry
    point's name.
    """
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
    """The codecs of these names that can be run, each once, and for each of the others how to get it.

    Raises ConfigError as `classical_codec` does."""
    codecs, missing = [], {}
    for name in dict.fromkeys(names):
        try:
            codecs.append(classical_codec(name, programs))
        except MissingCodecError as error:
            missing[name] = str(error)
    return codecs, missing
