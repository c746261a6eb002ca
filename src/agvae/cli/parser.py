"""The command line: commands, their options, and the help that describes them."""

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from agvae import __version__
from agvae.arguments import Parser, count, parsed, positive
from agvae.cli.commands import importing, inform, training
from agvae.cli.commands.compare import compare
from agvae.cli.commands.compress import compress
from agvae.cli.commands.decompress import decompress
from agvae.cli.commands.demo import demo
from agvae.cli.streams import STANDARD, say
from agvae.shipped import DEFAULT_MODEL

Command = Callable[[argparse.Namespace], int | None]
Add = Callable[..., Parser]
"""`add(name, command, summary, usage, *examples)`: a parser for one more command."""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of a command line, with its function as `command`. Wrong usage raises SystemExit(2)."""
    parser = make_parser()
    options, further = parser.parse_known_args(arguments)
    # argparse takes positional arguments up to the first option after them: compress a.png b.png --bpp 0.5 folder/
    if any(word.startswith("-") and word != STANDARD for word in further) or not hasattr(options, "paths"):
        if further:
            parser.error(f"unrecognized arguments: {' '.join(further)}")
    else:
        options.paths += further
    return options


def make_parser() -> Parser:
    """The parser of `agvae`, with all its commands."""
    parser = Parser(
        "agvae",
        description="Compress pictures with one learned model at any rate.",
        epilog="`agvae COMMAND --help` says more about each.",
    )
    parser.add_argument("--version", action="version", version=f"agvae {__version__}")
    parser.set_defaults(command=lambda options: say(parser.format_help().rstrip()))
    commands = parser.add_subparsers(metavar="COMMAND")

    def add(name: str, command: Command, summary: str, usage: str | None, *examples: str) -> Parser:
        added = commands.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            usage=usage and f"agvae {name} [options] {usage}",
            epilog="examples:\n" + "\n".join(f"  agvae {name} {example}".rstrip() for example in examples),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.set_defaults(command=command)
        return added

    _add_compress(add)
    _add_decompress(add)
    _add_compare(add)
    _add_info_and_models(add)
    _add_export(add)
    _add_import(add)
    _add_shard(add)
    _add_report(add)
    _add_demo(add)
    return parser


def _add_compress(add: Add) -> None:
    command = add(
        "compress",
        compress,
        "turn pictures into .agv files",
        "IN... OUT.agv|FOLDER",
        "photo.png photo.agv --bpp 0.25",
        "photos/ small/ --psnr 34 --jobs 2",
        "screenshot.png screenshot.agv --lossless",
        "- - --quality 2.5 < photo.png > photo.agv",
    )
    command.add_argument(
        "paths",
        nargs="+",
        metavar="IN... OUT",
        help="pictures in any format that Pillow reads, HEIC and JPEG XL with the extra `codecs`, or folders of them; "
        "then the output: a file for one picture, a folder for any number. A folder is made if it ends in /. Files in "
        "it have the names of the inputs with the suffix .agv; those from folders keep their places. - is standard "
        "input or output",
    )
    targets = command.add_mutually_exclusive_group()
    kinds: list[tuple[str, Callable[[str], Any], str, str]] = [
        (
            "quality",
            _not_negative,
            "Q",
            "from 0, the smallest file, to the last level of the model, 5 for the shipped ones, or any value between "
            "(default: the middle). Up to 2 more is possible: higher rates than the model was trained for",
        ),
        ("bpp", positive, "B", "file size in bits per pixel: at most B, at least 0.99 B"),
        ("bytes", count, "N", "file size in bytes: at most N, at least 0.99 N"),
        ("psnr", positive, "DB", "at least DB dB, at most 0.05 more"),
        ("ms-ssim", _share, "V", "MS-SSIM of at least V, at most 0.0005 more"),
    ]
    targets.add_argument(
        "--lossless",
        action="store_true",
        help="keep every pixel as it is, also 1-bit and 16-bit greyscale. Without this option, text, charts and "
        "patterns are lossless where that takes no more bytes, or where nothing else meets the target",
    )
    for name, kind, letter, words in kinds:
        targets.add_argument(f"--{name}", type=kind, metavar=letter, help=words)
    command.add_argument(
        "--effort",
        type=int,
        choices=range(4),
        default=0,
        help="how long to search for a smaller file of the same quality, for any target: 0 (default) not at all, "
        "1, 2 and 3 by 60, 200 and 600 steps. With agvae-small-mse that saves about 6, 9 and 10 %% and takes 140, 460 "
        "and 1400 s per megapixel on one core. Reading the file takes no longer. An interrupted search writes nothing",
    )
    command.add_argument("--strip", action="store_true", help="leave metadata out: EXIF, ICC profile, XMP, text")
    command.add_argument(
        "--stretch",
        action="store_true",
        help="brighten pictures of over 8 bits that do not use their range: 12-bit data in a 16-bit file, for one",
    )
    _add_coding_options(command, f"(default: {DEFAULT_MODEL})")


def _add_decompress(add: Add) -> None:
    command = add(
        "decompress",
        decompress,
        "turn .agv files into pictures",
        "IN... OUT|FOLDER",
        "photo.agv photo.png",
        "small/*.agv pictures/ --format jpg",
        "- - --format webp < photo.agv > photo.webp",
    )
    command.add_argument(
        "paths",
        nargs="+",
        metavar="IN... OUT",
        help=".agv files, then the output: a file, whose suffix (.png, .jpg, .webp, …) says the format, for one; a "
        "folder, which must be there or end in / to be made, for any number. - is standard input or output",
    )
    command.add_argument(
        "--format", metavar="F", help="for a folder and standard output: png (default), jpg, webp, avif, tiff, …"
    )
    _add_coding_options(command, "(default: the one of `agvae models` that made the file)")


def _add_compare(add: Add) -> None:
    command = add(
        "compare",
        compare,
        "print rate, PSNR and MS-SSIM of an .agv file against the picture that it was made of",
        "ORIGINAL IN.agv",
        "photo.png photo.agv",
        "photo.png photo.agv --output both.png",
    )
    command.add_argument("original", metavar="ORIGINAL", help="a picture")
    command.add_argument("file", metavar="IN.agv")
    command.add_argument("--output", metavar="OUT.png", help="write the two pictures side by side")
    _add_model_options(command, "(default: the one of `agvae models` that made the file)")


def _add_coding_options(command: Parser, default_model: str) -> None:
    """The options that compress and decompress share."""
    _add_model_options(command, default_model)
    existing = command.add_mutually_exclusive_group()
    existing.add_argument(
        "--overwrite", dest="no_clobber", action="store_false", help="replace files that are there already (default)"
    )
    existing.add_argument("--no-clobber", action="store_true", help="keep files that are there already, with a note")
    command.set_defaults(no_clobber=False)
    talk = command.add_mutually_exclusive_group()
    talk.add_argument("--verbose", action="store_true", help="say which model was used and how long each file took")
    talk.add_argument("--quiet", action="store_true", help="print errors alone")
    command.add_argument(
        "--jobs",
        type=count,
        metavar="N",
        default=1,
        help="work on N files at once (default: 1). They share the cores, and each takes its own memory",
    )


def _add_model_options(command: Parser, default_model: str) -> None:
    """The options of commands that run a model."""
    command.add_argument(
        "--model",
        metavar="NAME_OR_PATH",
        help=f"a model of `agvae models`, a .safetensors file or a checkpoint {default_model}",
    )
    command.add_argument(
        "--max-pixels", type=count, metavar="N", default=2**28, help="refuse larger pictures (default: 2^28)"
    )
    command.add_argument("--device", default="cpu", metavar="D", help="cpu (default), cuda, cuda:1, …")
    command.add_argument(
        "--threads", type=count, metavar="N", help="threads on the CPU (default: one for each free core)"
    )


def _add_info_and_models(add: Add) -> None:
    command = add("info", inform.info, "show what .agv files are", "IN.agv...", "photo.agv", "small/*.agv --json")
    command.add_argument("paths", nargs="+", metavar="IN.agv", help="- is standard input")
    command.add_argument("--json", action="store_true", help="as a JSON object for each file, a line each")
    add("models", inform.models, "list the models that come with agvae", None, "")


def _add_export(add: Add) -> None:
    summary = "turn a training checkpoint into a model file"
    command = add("export", training.export, summary, None, "last.ckpt mine.safetensors --half")
    command.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    command.add_argument("output", type=Path, metavar="OUT.safetensors")
    command.add_argument("--half", action="store_true", help="store the weights as float16: half the size")


def _add_import(add: Add) -> None:
    summary = "turn a checkpoint of CompressAI's mbt2018-mean or mbt2018 into one to train further or export"
    command = add("import-compressai", importing.import_compressai, summary, None, "mbt2018-mean-3.pth.tar start.ckpt")
    command.add_argument(
        "checkpoint",
        type=Path,
        metavar="CHECKPOINT",
        help="a state dict of CompressAI, what its example trainer saves, or a checkpoint of model=compressai",
    )
    command.add_argument("output", type=Path, metavar="OUT.ckpt", help="a model without gains, for init_from=OUT.ckpt")


def _add_shard(add: Add) -> None:
    command = add(
        "shard",
        training.shard,
        "turn a folder of pictures into tar files with an index, for training with data=shards",
        None,
        "photos/ shards/",
        "photos/ shards/ --size 1000",
    )
    command.add_argument("folder", type=Path, metavar="FOLDER", help="searched in depth; files are copied as they are")
    command.add_argument("output", type=Path, metavar="OUT", help="a new or empty folder")
    command.add_argument("--size", type=count, metavar="MB", default=256, help="of a tar file, in MB (default: 256)")


def _add_report(add: Add) -> None:
    command = add(
        "report",
        training.report_runs,
        "make one HTML page of training runs and evaluations",
        "FOLDER... [-o OUT.html]",
        "outputs",
        "multirun/train/2026-01-31_12-00-00 outputs/evaluate -o ablation.html",
    )
    command.add_argument(
        "paths",
        nargs="+",
        metavar="FOLDER",
        help="runs of train.py and evaluate.py, or folders that hold some, at any depth",
    )
    command.add_argument(
        "-o", "--output", metavar="OUT.html", default="report.html", help="the page (default: report.html)"
    )
    command.add_argument("--title", metavar="TEXT", help="its heading (default: the folders)")


def _add_demo(add: Add) -> None:
    summary = "open a page in the browser to look at the codec"
    command = add("demo", demo, summary, None, "", "--model mine.safetensors --port 8000")
    command.add_argument(
        "--model",
        metavar="NAME_OR_PATH",
        help="the model that the page starts with, beside which it offers all of `agvae models` (default: the first)",
    )
    command.add_argument(
        "--host", default="127.0.0.1", metavar="H", help="address to listen on (default: 127.0.0.1, this machine only)"
    )
    command.add_argument("--port", type=count, metavar="P", help="(default: the first free one from 7860 on)")
    command.add_argument(
        "--share", action="store_true", help="make the page public through a tunnel of gradio's, for a week at most"
    )
    command.add_argument(
        "--max-pixels", type=count, metavar="N", default=2**24, help="refuse larger pictures (default: 2^24)"
    )
    command.add_argument("--device", default="cpu", metavar="D", help="cpu (default), cuda, cuda:1, …")
    command.add_argument(
        "--space", metavar="OUT", help="open no page; write a folder that a Hugging Face Space runs as it is"
    )


def _not_negative(text: str) -> float:
    return parsed(text, float, lambda value: 0 <= value < math.inf, "a number from 0 on")


def _share(text: str) -> float:
    return parsed(text, float, lambda value: 0 < value <= 1, "a number above 0, at most 1")
