"""The paper's figures and tables, each one command: `python -m agvae.reporting.paper COMMAND --help`.

figure1 gain vectors · figure2 entropy models over a latent · figures3-6 codecs side by side at one rate · equations
what gain units cost · rd rate-distortion plots. Each writes a picture or table into --output with the numbers behind it
as JSON; an error is one line on standard error, status 2 for wrong usage and 1 for input that cannot be used.
"""

import argparse
import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from agvae.arguments import Parser, count, parsed, positive
from agvae.errors import ConfigError, DataError, exit_on_error

# Like the command line's, a wrong argument is said before torch is there.

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from agvae.codec import Codec
    from agvae.evaluation import Curve
    from agvae.evaluation.classical import ClassicalCodec, Coded
    from agvae.models.agvae import CodedLatent, Parameters
    from agvae.reporting.paper_figures import Box, Decoded, Histogram, LatentRow

_OURS = {"mse": "AG-VAE [MSE]", "msssim": "AG-VAE [MS-SSIM]"}


PAPER_LEVELS = 6


class Target(NamedTuple):
    """A picture, by name, and the rate to compare at, in bits per pixel."""

    picture: str
    bpp: float


PAPER_TARGETS = (Target("kodim24", 0.230), Target("kodim13", 0.449))
PAPER_BOXES = {
    "kodim24": ((392, 222, 120, 120), (208, 168, 120, 120)),
    "kodim13": ((392, 22, 120, 120), (496, 384, 120, 120)),
}
"""Our choice of what to look at in the paper's pictures: (x, y, width, height)."""


# ------------------------------------------------------------- commands


def figure1(options: argparse.Namespace) -> None:
    """Gain vectors over channels: m and m′ of y at each level, and those of z if it has gain."""
    from agvae.codec import open_codec
    from agvae.reporting.figures import gain_figure

    codec = open_codec(options.model, options.device)
    if codec.model.gain is None:
        raise DataError(f"{options.model}: a fixed-rate model (gain none) has no gain vectors to draw")
    numbers = {}
    for latent, unit, name in (("y", codec.model.gain, "figure1"), ("z", codec.model.hyper_gain, "figure1_z")):
        if unit is not None:
            levels = [float(level) for level in range(codec.levels)]
            m, inverse = (np.stack([gain(q).cpu().numpy() for q in levels]) for gain in (unit.gain, unit.inverse))
            title = f"{codec.name}: gain vectors of {latent}, {codec.levels} levels"
            _save(gain_figure(m, inverse, title), options, name)
            numbers[latent] = {"gain": m.tolist(), "inverse_gain": inverse.tolist()}
    _write_json(numbers, options, "figure1")


def figure2(options: argparse.Namespace) -> None:
    """The channel that takes most bits, its histogram, the entropy models over it, and their variances.

    The asymmetric model's symmetric counterpart on the same latent is, element by element, the Gaussian of the same
    mean and variance. With --symmetric a second model, trained so, is shown on its own latent at equal PSNR."""
    from agvae.codec import open_codec
    from agvae.reporting.latents import bits, gaussian_of
    from agvae.reporting.paper_figures import latent_figure

    codec = open_codec(options.model, options.device)
    if codec.model.symmetric:
        raise DataError(f"{options.model}: its entropy is symmetric; figure2 compares an asymmetric one with it")
    other = open_codec(options.symmetric, options.device) if options.symmetric else None
    if other and not other.model.symmetric:
        raise DataError(f"{options.symmetric}: its entropy is asymmetric; --symmetric takes a symmetric model")
    name, image = options.picture, _load(options.images, options.picture)
    view = LatentView.at(codec, image, name, **({"bpp": options.bpp} if codec.levels > 1 else {"quality": 0.0}))
    coded, density = view.coded, (codec.model.form, codec.model.tail)
    gaussian = gaussian_of(coded.parameters, *density)
    asymmetric = view.entry(f"asymmetric ({codec.model.form})", coded.y_bits)
    symmetric = view.entry("symmetric, same latent", bits(coded.symbols + coded.parameters.mu, gaussian, *density))
    models = [
        ("asymmetric", coded.parameters, density, asymmetric["channel_bits"]),
        ("symmetric", gaussian, density, symmetric["channel_bits"]),
    ]
    rows, table = [view.row(models)], [asymmetric, symmetric]
    if other:
        view = LatentView.at(other, image, name, **({"psnr": view.psnr} if other.levels > 1 else {"quality": 0.0}))
        trained = view.entry("symmetric, trained so", view.coded.y_bits)
        density = other.model.form, other.model.tail
        rows.append(view.row([("symmetric", view.coded.parameters, density, trained["channel_bits"])]))
        table.append(trained)
    _save(latent_figure(rows), options, "figure2")
    _write_json({"picture": name, "models": table}, options, "figure2")
    header = ("model", "channel", "channel, bits", "y, bits", "file, bpp", "PSNR, dB")
    formats = ("", "", ",.0f", ",.0f", ".4f", ".2f")
    cells = [[format(value, form) for value, form in zip(t.values(), formats, strict=True)] for t in table]
    print(_table(header, cells))


def figures3_6(options: argparse.Namespace) -> None:
    """Pictures beside each other at one rate: original, AG-VAE [MS-SSIM], AG-VAE [MSE], and other codecs.

    The codecs take the target rate, or as much of it as their steps allow; AG-VAE takes 99 to 100 % of the first one's.
    A codec that is not installed is named and left out."""
    from agvae.codec import open_codec
    from agvae.reporting.paper_figures import comparison_figure

    given = {"msssim": options.msssim, "mse": options.mse}
    if not any(given.values()):
        raise ConfigError("--mse or --msssim must name a model")
    others = _others(options.codecs, dict(options.programs))
    models = {loss: open_codec(name, options.device) for loss, name in given.items() if name}
    for loss, codec in models.items():
        if codec.levels == 1:
            raise DataError(f"{given[loss]}: a fixed-rate model, whose rate cannot be adapted to another codec's")
    targets = options.target or PAPER_TARGETS
    images = {picture: _load(options.images, picture) for picture, _ in targets}
    # Before any codec runs: some take minutes.
    boxes = {picture: _boxes(options.box, picture, image) for picture, image in images.items()}
    for picture, bpp in targets:
        image = images[picture]
        coded = [(codec.name, _at_rate(codec, image, bpp, picture)) for codec in others]
        rate = coded[0][1].bpp if coded else bpp
        ours = [(_OURS[loss], _ours_at_rate(codec, image, rate, picture)) for loss, codec in models.items()]
        results = [Result.of(name, image, decoded) for name, decoded in (*ours, *coded)]
        stem = f"figure3-6_{picture}_{bpp:.3f}bpp"
        drawing = comparison_figure(
            image, [result.decoded() for result in results], boxes[picture], f"{picture} at {rate:.3f} bpp"
        )
        _save(drawing, options, stem)
        _write_json({"picture": picture, "target_bpp": bpp, "codecs": [r.numbers() for r in results]}, options, stem)
        header = (picture, "bpp", "PSNR, dB", "MS-SSIM")
        print(_table(header, [(r.name, f"{r.bpp:.4f}", f"{r.psnr:.2f}", f"{r.ms_ssim:.4f}") for r in results]))


def equations(options: argparse.Namespace) -> None:
    """Equations 1 and 2: what CVR and HCVR cost, counted and by the formula; and what each part of the model costs."""
    from agvae.codec import open_codec
    from agvae.evaluation.complexity import DECODER, ENCODER, GAIN_UNITS, gain_costs, part_costs, total

    codec = open_codec(options.model, options.device)
    width, height = options.size
    levels = options.levels or (codec.levels if codec.levels > 1 else PAPER_LEVELS)
    rows, numbers = [], {}
    for name in ("cvr", "hcvr"):
        config = {**codec.config, "gain": {"name": name, "levels": levels}}
        costs = part_costs(config, height, width)
        counted, formula, whole = total(costs, GAIN_UNITS), gain_costs(config, height, width), total(costs)
        row = [name.upper()]
        for key in ("parameters", "flops"):
            parts = [getattr(cost, key) for cost in (counted, formula, whole)]
            row += [f"{parts[0]:,}", f"{parts[1]:,}", f"{100 * parts[0] / parts[2]:.2g} %"]
        rows.append(row)
        numbers[name] = {"counted": counted._asdict(), "formula": formula._asdict(), "model": whole._asdict()}
    header = ("gain", "parameters", "equation 1", "of the model", "FLOPs", "equation 2", "of the model")
    gains = _table(header, rows)

    costs, pixels = part_costs(codec.config, height, width), height * width
    sums = {"encoder": total(costs, ENCODER), "decoder": total(costs, DECODER), "whole model": total(costs)}
    rows = [
        (name, f"{cost.parameters:,}", f"{cost.flops / pixels:,.2f}", f"{cost.macs / pixels:,.2f}")
        for name, cost in (*costs.items(), *sums.items())
    ]
    parts = _table(("part", "parameters", "FLOPs per pixel", "MACs per pixel"), rows)
    numbers["parts"] = {name: cost._asdict() for name, cost in (*costs.items(), *sums.items())}

    text = (
        f"Gain units of {codec.name}, {levels} levels, on a picture of {width}×{height}\n\n{gains}\n\n"
        f"Its parts as it is (gain {codec.config['gain']['name']}, {codec.levels} levels)\n\n{parts}\n"
    )
    print(text, end="")
    _write(text.encode(), options, "equations.md")
    _write_json({"width": width, "height": height, "levels": levels, **numbers}, options, "equations")


def rd(options: argparse.Namespace) -> None:
    """RD plots in PSNR and in MS-SSIM dB of curves that evaluate.py wrote; on Kodak the published ones are behind."""
    from agvae.evaluation import background_curves
    from agvae.reporting.figures import rd_figure

    paths = [
        path for given in options.results for path in (sorted(given.glob("*.json")) if given.is_dir() else [given])
    ]
    if not paths:
        raise DataError(f"{options.results[0]}: no curve (*.json) is there; evaluate.py writes RUN/results/DATASET")
    curves = [_read_curve(path) for path in paths]
    names = Counter(curve.name for curve in curves)
    curves = [
        replace(curve, name=f"{curve.name} ({_run_of(path)})") if names[curve.name] > 1 else curve
        for curve, path in zip(curves, paths, strict=True)
    ]
    on_kodak = all(path.resolve().parent.name == "kodak" for path in paths)
    for metric, name in (("psnr-rgb", "rd_psnr"), ("ms-ssim-rgb", "rd_ms_ssim")):
        behind = [curve for curve in background_curves(metric) if curve.name not in names] if on_kodak else []
        _save(rd_figure(curves, metric, behind, paths[0].resolve().parent.name), options, name)


def _read_curve(path: Path) -> "Curve":
    from agvae.evaluation import read_curve

    try:
        return read_curve(path)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not a curve of evaluate.py") from error


def _run_of(path: Path) -> str:
    """RUN of RUN/results/DATASET/CODEC.json."""
    return path.resolve().parents[2].name


# ---------------------------------------------------- figure 2


@dataclass(frozen=True)
class LatentView:
    """A picture as one model codes it, and the channel of y that takes most bits."""

    codec: "Codec"
    picture: str
    bpp: float
    psnr: float
    coded: "CodedLatent"

    @classmethod
    def at(cls, codec: "Codec", image: np.ndarray, picture: str, **target: float) -> "LatentView":
        """At a target of `Codec.compress`; raises DataError if the model cannot meet it."""
        from agvae.codec.bitstream import quality_of
        from agvae.metrics import bits_per_pixel, psnr

        latent = codec.analyze(image)
        data = _compressed(codec, latent, picture, **target)
        coded = codec.model.code(latent.y, quality_of(data))
        bpp = bits_per_pixel(len(data), image.shape[1], image.shape[0])
        return cls(codec, picture, bpp, psnr(image, codec.decompress(data)), coded)

    @property
    def channel(self) -> int:
        """The index of the channel."""
        return int(self.coded.y_bits[0].sum((1, 2)).argmax())

    def of_channel(self, values: "Tensor") -> "Tensor":
        """Flat, on the CPU, the channel's elements of (1, M, H/16, W/16)."""
        return values[0, self.channel].flatten().cpu()

    def entry(self, model: str, y_bits: "Tensor") -> dict[str, Any]:
        """What the table says of it, with the bits (1, M, H/16, W/16)."""
        return {
            "model": model,
            "channel": self.channel,
            "channel_bits": self.of_channel(y_bits).sum().item(),
            "y_bits": y_bits.sum().item(),
            "bpp": self.bpp,
            "psnr": self.psnr,
        }

    def row(self, models: Sequence[tuple[str, "Parameters", tuple[str, float], float]]) -> "LatentRow":
        """Figure 2's row, with `models` (name, parameters (1, M, H/16, W/16), (form, tail), bits) over histograms."""
        from agvae.models.agvae import Parameters
        from agvae.reporting.paper_figures import LatentRow

        _, sigma_l, sigma_r = (self.of_channel(p) for p in self.coded.parameters)
        about = [
            (f"{name}: {bits:,.0f} bits", Parameters(own.mu - self.coded.parameters.mu, *own[1:]), density)
            for name, own, density, bits in models
        ]
        histograms = (
            self._histogram("gained latent ȳ", self.of_channel(self.coded.y_bar), [m[:3] for m in models]),
            self._histogram("coded symbol, round(ȳ − μ)", self.of_channel(self.coded.symbols), about),
        )
        title = (
            f"{self.codec.name}, {self.picture} at {self.bpp:.3f} bpp and {self.psnr:.2f} dB: "
            f"channel {self.channel} of {self.codec.model.M}, the one that takes most bits"
        )
        right = None if self.codec.model.symmetric else (sigma_r**2).numpy()
        return LatentRow(title, histograms, (sigma_l**2).numpy(), right)

    def _histogram(
        self, label: str, values: "Tensor", models: Sequence[tuple[str, "Parameters", tuple[str, float]]]
    ) -> "Histogram":
        import torch

        from agvae.models.agvae import Parameters
        from agvae.reporting.latents import expected_histogram
        from agvae.reporting.paper_figures import Histogram, ModelCurve

        x = torch.arange(values.min().floor().item() - 2, values.max().ceil().item() + 2, 1 / 8)
        curves = []
        for name, parameters, density in models:
            shares = expected_histogram(x, Parameters(*(self.of_channel(p) for p in parameters)), *density)
            symmetric = parameters.sigma_l is parameters.sigma_r
            curves.append(ModelCurve(name, symmetric, x.numpy(), shares.numpy()))
        return Histogram(label, values.numpy(), curves)


# ---------------------------------------------------- figures 3 to 6


@dataclass(frozen=True)
class Result:
    """A picture as one codec gives it back, with its rate (bpp of the whole file) and quality (dB, [0, 1])."""

    name: str
    image: np.ndarray
    bpp: float
    quality: float
    psnr: float
    ms_ssim: float

    @classmethod
    def of(cls, name: str, original: np.ndarray, coded: "Coded") -> "Result":
        """The measured result."""
        from agvae.metrics import ms_ssim, psnr

        measured = psnr(original, coded.image), ms_ssim(original, coded.image)
        return cls(name, coded.image, coded.bpp, coded.quality, *measured)

    def decoded(self) -> "Decoded":
        """With the lines that stand under it."""
        from agvae.reporting.paper_figures import Decoded

        similarity = "MS-SSIM not defined" if math.isnan(self.ms_ssim) else f"MS-SSIM {self.ms_ssim:.4f}"
        return Decoded(self.name, self.image, (f"{self.bpp:.3f} bpp", f"{self.psnr:.2f} dB, {similarity}"))

    def numbers(self) -> dict[str, Any]:
        """Without the pixels."""
        from agvae.evaluation.rd import finite_or_none

        numbers = {"bpp": self.bpp, "quality": self.quality, "psnr": self.psnr, "ms_ssim": self.ms_ssim}
        return {"codec": self.name, **{key: finite_or_none(value) for key, value in numbers.items()}}


def _at_rate(codec: "ClassicalCodec", image: np.ndarray, bpp: float, picture: str) -> "Coded":
    from agvae.evaluation.classical import at_rate

    try:
        return at_rate(codec, image, bpp)
    except (ConfigError, DataError):
        raise
    except (ValueError, OSError) as error:
        raise DataError(f"{picture}: {error}") from error


def _ours_at_rate(codec: "Codec", image: np.ndarray, bpp: float, picture: str) -> "Coded":
    from agvae.codec.bitstream import quality_of
    from agvae.evaluation.classical import Coded
    from agvae.metrics import bits_per_pixel

    data = _compressed(codec, image, picture, bpp=bpp)
    rate, quality = bits_per_pixel(len(data), image.shape[1], image.shape[0]), quality_of(data)
    return Coded(np.asarray(codec.decompress(data)), rate, quality)


def _boxes(given: Sequence[Sequence[int]] | None, picture: str, image: np.ndarray) -> list["Box"]:
    """What to show of a picture; raises ConfigError if it is more than can be told apart, or not within it."""
    from agvae.reporting.paper_figures import BOX_COLOURS, Box

    boxes = [Box(*box) for box in given or PAPER_BOXES.get(picture) or detailed_boxes(image)]
    if len(boxes) > len(BOX_COLOURS):
        raise ConfigError(f"--box is given {len(boxes)} times; a figure has room for {len(BOX_COLOURS)}")
    height, width = image.shape[:2]
    for box in boxes:
        if box.x + box.width > width or box.y + box.height > height:
            raise ConfigError(f"--box {','.join(map(str, box))} is not within {picture}, {width}×{height}")
    return boxes


def detailed_boxes(image: np.ndarray, count: int = 2, side: int = 120) -> list[tuple[int, int, int, int]]:
    """Boxes (x, y, side, side) of the parts of a picture where most happens: the largest deviation of brightness."""
    height, width = image.shape[:2]
    side = max(min(side, height // 2, width // 2), 1)
    grey = image.mean(axis=2)
    corners = [(x, y) for y in range(0, height - side + 1, side) for x in range(0, width - side + 1, side)]
    corners.sort(key=lambda corner: -grey[corner[1] : corner[1] + side, corner[0] : corner[0] + side].std())
    return [(x, y, side, side) for x, y in corners[:count]]


# ---------------------------------------------------- in and out


def _others(names: Sequence[str], programs: dict[str, str]) -> list["ClassicalCodec"]:
    """The codecs that can be run; of each of the others a line says how to get it."""
    from agvae.evaluation import MissingCodecError, classical_codec

    codecs = []
    for name in dict.fromkeys(names):
        try:
            codecs.append(classical_codec(name, programs))
        except MissingCodecError as error:
            print(f"left out: {error}", file=sys.stderr)
    return codecs


def _compressed(codec: "Codec", image: Any, picture: str, **target: float) -> bytes:
    """The learned file at a target of `Codec.compress`; DataError if the model cannot meet it."""
    from agvae.codec import TargetError

    try:
        return codec.compress(image, **target, lossless=False)
    except TargetError as error:
        raise DataError(f"{picture} with {codec.name}: {error}") from error


def _load(folder: Path, name: str) -> np.ndarray:
    """The picture called `name`, with or without its suffix, in `folder` or below, (H, W, 3) uint8."""
    from agvae.data import list_images
    from agvae.images import ImageError, load_rgb

    found = [path for path in list_images(folder) if name.lower() in (path.name.lower(), path.stem.lower())]
    if not found:
        raise DataError(f"{folder}: no picture called {name} is there; --picture and --target name others")
    try:
        return load_rgb(found[0])
    except ImageError as error:
        raise DataError(str(error)) from error


def _save(figure: "Figure", options: argparse.Namespace, stem: str) -> None:
    file = BytesIO()
    figure.savefig(file, format=options.format)
    _write(file.getvalue(), options, f"{stem}.{options.format}")


def _write_json(numbers: dict[str, Any], options: argparse.Namespace, stem: str) -> None:
    _write(f"{json.dumps(numbers, indent=2, allow_nan=False)}\n".encode(), options, f"{stem}.json")


def _write(data: bytes, options: argparse.Namespace, name: str) -> None:
    from agvae.files import write_atomically

    path = options.output / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)
    except OSError as error:
        raise DataError(f"{error.filename}: {error.strerror}") from error
    print(path)


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table whose columns line up, numbers to the right."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
    padded = ([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in cells)
    lines = [f"| {' | '.join(row)} |" for row in padded]
    rule = "".join(f"|{'-' * (width + 1)}{':' if i else '-'}" for i, width in enumerate(widths)) + "|"
    return "\n".join((lines[0], rule, *lines[1:]))


# ---------------------------------------------------- usage


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line `arguments`, those of the process by default."""
    options = _parser().parse_args(arguments)
    exit_on_error(options.command, options)


def _parser() -> Parser:
    parser = Parser(
        "python -m agvae.reporting.paper", description="Draw the paper's figures and tables from a trained model."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, command: Callable[[argparse.Namespace], None]) -> Parser:
        words = " ".join(command.__doc__.split())
        added = commands.add_parser(name, help=words.partition(". ")[0].rstrip("."), description=words)
        added.add_argument("--output", type=Path, default=Path("outputs/paper"), metavar="DIR", help=_OUTPUT)
        added.add_argument("--format", choices=("png", "pdf", "svg"), default="png", help="of pictures (default: png)")
        added.set_defaults(command=command)
        return added

    def add_model(command: Parser, **names: str) -> None:
        for name, words in names.items():
            command.add_argument(f"--{name}", required=name == "model", metavar="MODEL", help=f"{words}: {_MODEL}")
        command.add_argument("--device", default="cpu", metavar="D", help="cpu (default), cuda, cuda:1, …")

    def add_images(command: Parser) -> None:
        command.add_argument("--images", type=Path, required=True, metavar="DIR", help="a folder with the pictures")

    add_model(add("figure1", figure1), model="the model")

    command = add("figure2", figure2)
    add_model(command, model="an asymmetric model", symmetric="a symmetric one to show beside it")
    add_images(command)
    command.add_argument("--picture", default="kodim21", metavar="NAME", help="a file's name (default: kodim21)")
    command.add_argument("--bpp", type=positive, default=0.5, metavar="B", help="rate of the file (default: 0.5)")

    command = add("figures3-6", figures3_6)
    add_model(command, mse="the model trained for MSE", msssim="the model trained for MS-SSIM")
    add_images(command)
    command.add_argument(
        "--target",
        type=_target,
        action="append",
        metavar="NAME=BPP",
        help="a picture and the rate to compare at; may be given again (default: "
        + ", ".join(f"{name}={bpp:.3f}" for name, bpp in PAPER_TARGETS)
        + ")",
    )
    command.add_argument(
        "--codecs",
        nargs="*",
        default=["vtm", "bpg"],
        metavar="CODEC",
        help="codecs beside it, as in evaluate.py; the first one's rate is AG-VAE's (default: vtm bpg)",
    )
    command.add_argument(
        "--programs",
        type=_program,
        nargs="+",
        default=[],
        metavar="NAME=PATH",
        help="where external programs are that are not on PATH, by their names in conf/evaluate.yaml: bpgenc, bpgdec, "
        "EncoderApp, …",
    )
    command.add_argument(
        "--box",
        type=_box,
        action="append",
        metavar="X,Y,W,H",
        help="a part of the picture to show, in pixels; may be given again, up to 4 (default: two of the paper's "
        "pictures' or where the picture has most detail)",
    )

    command = add("equations", equations)
    add_model(command, model="the model")
    command.add_argument("--size", type=_size, default=(768, 512), metavar="WxH", help="picture (default: 768x512)")
    command.add_argument(
        "--levels", type=count, metavar="N", help="gain vectors (default: the model's, 6 for a fixed-rate one)"
    )

    command = add("rd", rd)
    command.add_argument(
        "--results",
        type=Path,
        nargs="+",
        required=True,
        metavar="PATH",
        help="folders RUN/results/DATASET of evaluate.py, or single curves (.json) of them",
    )
    return parser


_MODEL = "a shipped model's name, a .safetensors file or a checkpoint (.ckpt)"
_OUTPUT = "folder for pictures, tables and numbers (default: outputs/paper)"


def _size(text: str) -> tuple[int, ...]:
    return parsed(text, lambda t: tuple(map(int, t.split("x"))), lambda v: len(v) == 2 and min(v) > 0, "a size, WxH")


def _box(text: str) -> tuple[int, ...]:
    def good(box: tuple[int, ...]) -> bool:
        return len(box) == 4 and min(box) >= 0 and min(box[2:]) > 0

    return parsed(text, lambda t: tuple(map(int, t.split(","))), good, "a box, X,Y,W,H in pixels")


def _program(text: str) -> tuple[str, ...]:
    return parsed(
        text, lambda t: tuple(t.split("=", 1)), lambda v: len(v) == 2 and all(v), "a name and a path, NAME=PATH"
    )


def _target(text: str) -> Target:
    def parse(text: str) -> Target:
        name, _, bpp = text.rpartition("=")
        return Target(name, float(bpp))

    return parsed(text, parse, lambda t: t.picture and 0 < t.bpp < math.inf, "a picture and a rate, NAME=BPP")


if __name__ == "__main__":
    main()
