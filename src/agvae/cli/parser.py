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
        epilog="Run `agvae COMMAND --help` for the options of a command.",
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
        help="pictures, or folders of pictures, and then the output. Any format that Pillow reads will do; HEIC and "
        "JPEG XL "
        "need the extra `codecs`. The output is a file for one picture, or a folder for any number. A folder whose "
        "name ends in / is created. Files in it have the names of the inputs with the suffix .agv, and files from "
        "folders keep their relative paths. - stands for standard input or output",
    )
    targets = command.add_mutually_exclusive_group()
    kinds: list[tuple[str, Callable[[str], Any], str, str]] = [
        (
            "quality",
            _not_negative,
            "Q",
            "any number from 0, the smallest file, to the last level of the model, which is 5 for the included models "
            "(default: the middle). Up to 2 more is allowed, for rates above those that the model was trained for",
        ),
        ("bpp", positive, "B", "file size in bits per pixel: at most B, and at least 0.99 B"),
        ("bytes", count, "N", "file size in bytes: at most N, and at least 0.99 N"),
        ("psnr", positive, "DB", "PSNR of at least DB dB, and at most 0.05 dB more"),
        ("ms-ssim", _share, "V", "MS-SSIM of at least V, and at most 0.0005 more"),
    ]
    targets.add_argument(
        "--lossless",
        action="store_true",
        help="keep every pixel exactly, including 1-bit and 16-bit greyscale. Without this option, text, charts and "
        "patterns become lossless if the file is no larger, or if nothing else meets the target",
    )
    for name, kind, letter, words in kinds:
        targets.add_argument(f"--{name}", type=kind, metavar=letter, help=words)
    command.add_argument(
        "--effort",
        type=int,
        choices=range(4),
        default=0,
        help="how long to search for a smaller file of the same quality: 0 (default) does not search; 1, 2 and 3 take "
        "60, "
        "200 and 600 steps. With agvae-small-mse they save about 6, 9 and 10 %% and need 140, 460 and 1400 s per "
        "megapixel on one core. It works with any target. Decoding takes no longer. If you interrupt the search, no "
        "file is written",
    )
    command.add_argument("--strip", action="store_true", help="leave out metadata: EXIF, ICC profile, XMP and text")
    command.add_argument(
        "--stretch",
        action="store_true",
        help="brighten pictures of more than 8 bits that do not use their full range, such as 12-bit data in a 16-bit "
        "file",
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
        help=".agv files, and then the output. For one input, the output is a file whose suffix (.png, .jpg, .webp, "
        "…) sets "
        "the format. For any number it is a folder that exists, or whose name ends in / to create it. - stands for "
        "standard input or output",
    )
    command.add_argument(
        "--format",
        metavar="F",
        help="format in a folder or on standard output: png (default), jpg, webp, avif, tiff, …",
    )
    _add_coding_options(command, "(default: the included model that made the file)")


def _add_compare(add: Add) -> None:
    command = add(
        "compare",
        compare,
        "print rate, PSNR and MS-SSIM of an .agv file against its original",
        "ORIGINAL IN.agv",
        "photo.png photo.agv",
        "photo.png photo.agv --output both.png",
    )
    command.add_argument("original", metavar="ORIGINAL", help="the picture that was compressed")
    command.add_argument("file", metavar="IN.agv")
    command.add_argument("--output", metavar="OUT.png", help="write the two pictures side by side")
    _add_model_options(command, "(default: the included model that made the file)")


def _add_coding_options(command: Parser, default_model: str) -> None:
    """The options that compress and decompress share."""
    _add_model_options(command, default_model)
    existing = command.add_mutually_exclusive_group()
    existing.add_argument(
        "--overwrite", dest="no_clobber", action="store_false", help="replace files that already exist (default)"
    )
    existing.add_argument("--no-clobber", action="store_true", help="keep files that already exist, and print a note")
    command.set_defaults(no_clobber=False)
    talk = command.add_mutually_exclusive_group()
    talk.add_argument("--verbose", action="store_true", help="print which model was used and how long each file took")
    talk.add_argument("--quiet", action="store_true", help="print only errors")
    command.add_argument(
        "--jobs",
        type=count,
        metavar="N",
        default=1,
        help="work on N files at once (default: 1). They share the cores, and each needs its own memory",
    )


def _add_model_options(command: Parser, default_model: str) -> None:
    """The options of commands that run a model."""
    command.add_argument(
        "--model",
        metavar="NAME_OR_PATH",
        help=f"a name from `agvae models`, a .safetensors file or a checkpoint {default_model}",
    )
    command.add_argument(
        "--max-pixels",
        type=count,
        metavar="N",
        default=2**28,
        help="refuse pictures of more than N pixels (default: 2^28)",
    )
    command.add_argument("--device", default="cpu", metavar="D", help="cpu (default), cuda, cuda:1, …")
    command.add_argument(
        "--threads", type=count, metavar="N", help="threads on the CPU (default: one for each free core)"
    )


def _add_info_and_models(add: Add) -> None:
    command = add("info", inform.info, "show what .agv files contain", "IN.agv...", "photo.agv", "small/*.agv --json")
    command.add_argument("paths", nargs="+", metavar="IN.agv", help="files; - stands for standard input")
    command.add_argument("--json", action="store_true", help="print one JSON object per line, for each file")
    add("models", inform.models, "list the models that come with agvae", None, "")


def _add_export(add: Add) -> None:
    summary = "turn a training checkpoint into a model file"
    command = add("export", training.export, summary, None, "last.ckpt mine.safetensors --half")
    command.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    command.add_argument("output", type=Path, metavar="OUT.safetensors")
    command.add_argument("--half", action="store_true", help="store the weights as float16, which halves the size")


def _add_import(add: Add) -> None:
    summary = (
        "turn a checkpoint of CompressAI's mbt2018-mean or mbt2018 into one of agvae, to train further or to export"
    )
    command = add("import-compressai", importing.import_compressai, summary, None, "mbt2018-mean-3.pth.tar start.ckpt")
    command.add_argument(
        "checkpoint",
        type=Path,
        metavar="CHECKPOINT",
        help="a state dict of CompressAI, a file of its example trainer, or a checkpoint of model=compressai",
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
    command.add_argument(
        "folder",
        type=Path,
        metavar="FOLDER",
        help="a folder of pictures, with all folders below it; files are copied unchanged",
    )
    command.add_argument("output", type=Path, metavar="OUT", help="a new or empty folder")
    command.add_argument(
        "--size", type=count, metavar="MB", default=256, help="size of each tar file in MB (default: 256)"
    )


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
        help="runs of train.py and evaluate.py, or folders that contain runs at any depth",
    )
    command.add_argument(
        "-o", "--output", metavar="OUT.html", default="report.html", help="the page (default: report.html)"
    )
    command.add_argument("--title", metavar="TEXT", help="heading of the page (default: the folders)")


def _add_demo(add: Add) -> None:
    summary = "open a page in the browser to try the codec"
    command = add("demo", demo, summary, None, "", "--model mine.safetensors --port 8000")
    command.add_argument(
        "--model",
        metavar="NAME_OR_PATH",
        help="the model that is selected at the start (default: the first of `agvae models`); the page offers all "
        "others too",
    )
    command.add_argument(
        "--host", default="127.0.0.1", metavar="H", help="address to listen on (default: 127.0.0.1, this machine only)"
    )
    command.add_argument(
        "--port", type=count, metavar="P", help="port to listen on (default: the first free one from 7860)"
    )
    command.add_argument(
        "--share", action="store_true", help="make the page public through a tunnel of gradio, for at most a week"
    )
    command.add_argument(
        "--max-pixels",
        type=count,
        metavar="N",
        default=2**24,
        help="refuse pictures of more than N pixels (default: 2^24)",
    )
    command.add_argument("--device", default="cpu", metavar="D", help="cpu (default), cuda, cuda:1, …")
    command.add_argument(
        "--space", metavar="OUT", help="instead of opening a page, write a folder that runs as a Hugging Face Space"
    )


def _not_negative(text: str) -> float:
    return parsed(text, float, lambda value: 0 <= value < math.inf, "a number from 0 on")


def _share(text: str) -> float:
    return parsed(text, float, lambda value: 0 < value <= 1, "a number above 0, at most 1")
