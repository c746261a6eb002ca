"""The arguments of the paper's commands."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path

from agvae.arguments import Parser, count, parsed, positive
from agvae.reporting.boxes import box
from agvae.reporting.paper.commands import equations, figure1, figure2, figures3_6, rd
from agvae.reporting.paper.pictures import PAPER_TARGETS, Target

_MODEL = "a name from `agvae models`, a .safetensors file or a checkpoint (.ckpt)"
_OUTPUT = "folder for pictures, tables and numbers (default: outputs/paper)"


def build_parser() -> Parser:
    """The parser. Its result has the function of the command as `command`."""
    parser = Parser(
        "python -m agvae.reporting.paper", description="Draw the paper's figures and tables from a trained model."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, command: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
        words = " ".join((command.__doc__ or "").split())
        added = commands.add_parser(name, help=words.partition(". ")[0].rstrip("."), description=words)
        added.add_argument("--output", type=Path, default=Path("outputs/paper"), metavar="DIR", help=_OUTPUT)
        added.add_argument(
            "--format", choices=("png", "pdf", "svg"), default="png", help="format of pictures (default: png)"
        )
        added.set_defaults(command=command)
        return added

    _add_model(add("figure1", figure1), model="the model")
    _add_figure2(add("figure2", figure2))
    _add_figures3_6(add("figures3-6", figures3_6))
    _add_equations(add("equations", equations))
    add("rd", rd).add_argument(
        "--results",
        type=Path,
        nargs="+",
        required=True,
        metavar="PATH",
        help="folders RUN/results/DATASET that evaluate.py wrote, or single curves (.json) in them",
    )
    return parser


def _add_model(command: argparse.ArgumentParser, **names: str) -> None:
    for name, words in names.items():
        command.add_argument(f"--{name}", required=name == "model", metavar="MODEL", help=f"{words}: {_MODEL}")
    command.add_argument("--device", default="cpu", metavar="D", help="cpu (default), cuda, cuda:1, …")


def _add_images(command: argparse.ArgumentParser) -> None:
    command.add_argument("--images", type=Path, required=True, metavar="DIR", help="a folder with the pictures")


def _add_figure2(command: argparse.ArgumentParser) -> None:
    _add_model(command, model="an asymmetric model", symmetric="a symmetric model to show beside it")
    _add_images(command)
    command.add_argument("--picture", default="kodim21", metavar="NAME", help="name of the file (default: kodim21)")
    command.add_argument("--bpp", type=positive, default=0.5, metavar="B", help="rate of the file (default: 0.5)")


def _add_figures3_6(command: argparse.ArgumentParser) -> None:
    _add_model(command, mse="the model trained for MSE", msssim="the model trained for MS-SSIM")
    _add_images(command)
    command.add_argument(
        "--target",
        type=_target,
        action="append",
        metavar="NAME=BPP",
        help="a picture and the rate to compare at; can be repeated (default: "
        + ", ".join(f"{name}={bpp:.3f}" for name, bpp in PAPER_TARGETS)
        + ")",
    )
    command.add_argument(
        "--codecs",
        nargs="*",
        default=["vtm", "bpg"],
        metavar="CODEC",
        help="codecs to show beside it, as in evaluate.py; AG-VAE takes the rate of the first (default: vtm bpg)",
    )
    command.add_argument(
        "--programs",
        type=_program,
        nargs="+",
        default=[],
        metavar="NAME=PATH",
        help="paths of external programs that are not on PATH, by their names in conf/evaluate.yaml: bpgenc, bpgdec, "
        "EncoderApp, …",
    )
    command.add_argument(
        "--box",
        type=box,
        action="append",
        metavar="X,Y,W,H",
        help="a part of the picture to show, in pixels; can be repeated up to 4 times (default: the two parts that the "
        "paper shows, or those with most detail)",
    )


def _add_equations(command: argparse.ArgumentParser) -> None:
    _add_model(command, model="the model")
    command.add_argument(
        "--size", type=_size, default=(768, 512), metavar="WxH", help="size of the picture (default: 768x512)"
    )
    command.add_argument(
        "--levels",
        type=count,
        metavar="N",
        help="number of gain vectors (default: that of the model, or 6 for a fixed-rate model)",
    )


def _size(text: str) -> tuple[int, ...]:
    return parsed(text, lambda t: tuple(map(int, t.split("x"))), lambda v: len(v) == 2 and min(v) > 0, "a size, WxH")


def _program(text: str) -> tuple[str, ...]:
    return parsed(
        text, lambda t: tuple(t.split("=", 1)), lambda v: len(v) == 2 and all(v), "a name and a path, NAME=PATH"
    )


def _target(text: str) -> Target:
    def parse(text: str) -> Target:
        name, _, bpp = text.rpartition("=")
        return Target(name, float(bpp))

    return parsed(text, parse, lambda t: t.picture and 0 < t.bpp < math.inf, "a picture and a rate, NAME=BPP")
