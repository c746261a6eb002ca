"""The `agvae` command: compress and decompress pictures, look at files and models, export checkpoints.

Ends with status 0, 1 for input that cannot be used, 2 for wrong usage, 130 for Ctrl-C; an error is one line on standard
error. Of several inputs one that fails does not stop the others.
"""

import argparse
import contextlib
import dataclasses
import functools
import io
import json
import math
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from agvae import __version__
from agvae.arguments import Parser, count, parsed, positive
from agvae.demo.command import add_arguments as add_demo_arguments
from agvae.errors import ConfigError, DataError, is_out_of_memory

# Everything heavy is imported by the command that needs it, when it needs it: `agvae --help` answers at once, and a
# file that cannot be read is an error before torch is there.

if TYPE_CHECKING:
    from agvae.codec import Codec

DEFAULT_MODEL = "agvae-small-mse"
STANDARD = "-"
"""Standard input or output, in the place of a file."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `arguments` (those of the process by default) and return the exit status."""
    try:
        options = _parse(arguments)
        return options.command(options) or 0
    except ConfigError as error:
        return _fail(error, 2)
    except (ValueError, OSError) as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)


def _fail(error: object, status: int) -> int:
    print(f"agvae: {_one_line(error)}", file=sys.stderr)
    return status


def _one_line(error: object) -> str:
    if isinstance(error, OSError) and error.filename:
        error = f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())


# ---------------------------------------------------------------- usage


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    options, further = parser.parse_known_args(arguments)
    # argparse takes positional arguments up to the first option after them: compress a.png b.png --bpp 0.5 folder/
    if any(word.startswith("-") and word != STANDARD for word in further) or not hasattr(options, "paths"):
        if further:
            parser.error(f"unrecognized arguments: {' '.join(further)}")
    else:
        options.paths += further
    return options


def _parser() -> Parser:
    parser = Parser(
        "agvae",
        description="Compress pictures with one learned model at any rate.",
        epilog="`agvae COMMAND --help` says more about each.",
    )
    parser.add_argument("--version", action="version", version=f"agvae {__version__}")
    parser.set_defaults(command=lambda options: _print(parser.format_help().rstrip()))
    commands = parser.add_subparsers(metavar="COMMAND")

    def add(name: str, summary: str, usage: str | None, *examples: str) -> Parser:
        return commands.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            usage=usage and f"agvae {name} [options] {usage}",
            epilog="examples:\n" + "\n".join(f"  agvae {name} {example}" for example in examples),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    compress = add(
        "compress",
        "turn pictures into .agv files",
        "IN... OUT.agv|FOLDER",
        "photo.png photo.agv --bpp 0.25",
        "*.jpg small/ --psnr 34 --strip",
        "- - --quality 2.5 < photo.png > photo.agv",
    )
    compress.add_argument(
        "paths",
        nargs="+",
        metavar="IN... OUT",
        help="pictures in any format that Pillow reads, then the output: a file for one picture, a folder for any "
        "number. A folder must be there or end in / to be made; files in it have the names of the inputs with the "
        "suffix .agv. - is standard input or output",
    )
    targets = compress.add_mutually_exclusive_group()
    for name, kind, letter, words in (
        (
            "quality",
            _not_negative,
            "Q",
            "from 0, the smallest file, to the model's levels − 1; any value between (default: the middle)",
        ),
        ("bpp", positive, "B", "file size in bits per pixel: at most B, at least 0.99 B"),
        ("bytes", count, "N", "file size in bytes: at most N, at least 0.99 N"),
        ("psnr", positive, "DB", "at least DB dB, at most 0.05 more"),
        ("ms-ssim", _share, "V", "MS-SSIM of at least V, at most 0.0005 more"),
    ):
        targets.add_argument(f"--{name}", type=kind, metavar=letter, help=words)
    compress.add_argument("--strip", action="store_true", help="leave EXIF and ICC profile out")
    compress.set_defaults(command=_compress)

    decompress = add(
        "decompress",
        "turn .agv files into pictures",
        "IN... OUT|FOLDER",
        "photo.agv photo.png",
        "small/*.agv pictures/ --format jpg",
        "- - --format webp < photo.agv > photo.webp",
    )
    decompress.add_argument(
        "paths",
        nargs="+",
        metavar="IN... OUT",
        help=".agv files, then the output: a file, whose suffix (.png, .jpg, .webp, …) says the format, for one; a "
        "folder, which must be there or end in / to be made, for any number. - is standard input or output",
    )
    decompress.add_argument(
        "--format", metavar="F", help="for a folder and standard output: png (default), jpg, webp, avif, tiff, …"
    )
    decompress.set_defaults(command=_decompress)

    for command in (compress, decompress):
        command.add_argument(
            "--model",
            metavar="NAME_OR_PATH",
            help="a model of `agvae models`, a .safetensors file or a checkpoint (default: "
            + (f"{DEFAULT_MODEL})" if command is compress else "the one of `agvae models` that made the file)"),
        )
        command.add_argument(
            "--max-pixels", type=count, metavar="N", default=2**28, help="refuse larger pictures (default: 2^28)"
        )
        command.add_argument("--device", default="cpu", metavar="D", help="cpu (default), cuda, cuda:1, …")

    info = add("info", "show what .agv files are", "IN.agv...", "photo.agv", "small/*.agv --json")
    info.add_argument("paths", nargs="+", metavar="IN.agv", help="- is standard input")
    info.add_argument("--json", action="store_true", help="as a JSON object for each file, a line each")
    info.set_defaults(command=_info)

    models = commands.add_parser("models", help="list the models that come with agvae")
    models.set_defaults(command=_models)

    export = add("export", "turn a training checkpoint into a model file", None, "last.ckpt mine.safetensors --half")
    export.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    export.add_argument("output", type=Path, metavar="OUT.safetensors")
    export.add_argument("--half", action="store_true", help="store the weights as float16: half the size")
    export.set_defaults(command=_export)

    shard = add(
        "shard",
        "turn a folder of pictures into tar files with an index, for training with data=shards",
        None,
        "photos/ shards/",
        "photos/ shards/ --size 1000",
    )
    shard.add_argument("folder", type=Path, metavar="FOLDER", help="searched in depth; files are copied as they are")
    shard.add_argument("output", type=Path, metavar="OUT", help="a new or empty folder")
    shard.add_argument("--size", type=count, metavar="MB", default=256, help="of a tar file, in MB (default: 256)")
    shard.set_defaults(command=_shard)

    report = add(
        "report",
        "make one HTML page of training runs and evaluations",
        "FOLDER... [-o OUT.html]",
        "outputs",
        "multirun/train/2026-01-31_12-00-00 outputs/evaluate -o ablation.html",
    )
    report.add_argument(
        "paths",
        nargs="+",
        metavar="FOLDER",
        help="runs of train.py and evaluate.py, or folders that hold some, at any depth",
    )
    report.add_argument(
        "-o", "--output", metavar="OUT.html", default="report.html", help="the page (default: report.html)"
    )
    report.add_argument("--title", metavar="TEXT", help="its heading (default: the folders)")
    report.set_defaults(command=_report_runs)

    add_demo_arguments(
        add("demo", "open a page in the browser to look at the codec", None, "", "--model mine.safetensors --port 8000")
    )
    return parser


def _not_negative(text: str) -> float:
    return parsed(text, float, lambda value: 0 <= value < math.inf, "a number from 0 on")


def _share(text: str) -> float:
    return parsed(text, float, lambda value: 0 < value <= 1, "a number above 0, at most 1")


# ------------------------------------------------------ inputs and outputs


class Job(NamedTuple):
    """One file to read and the one to make of it."""

    input: str
    output: str

    @property
    def source(self) -> str:
        """The input in words."""
        return "standard input" if self.input == STANDARD else self.input

    @property
    def target(self) -> str:
        """The output in words."""
        return "standard output" if self.output == STANDARD else self.output


def _jobs(paths: list[str], suffix: str, output_form: str) -> list[Job]:
    """What the positional arguments ask for; `suffix` is that of files in a folder.

    Raises ConfigError if an output would meet an input or another output."""
    if len(paths) < 2:
        raise ConfigError(f"{paths[0]}: nothing says where to write; give {output_form} after the input")
    *inputs, output = paths
    if not output.endswith(os.sep) and not os.path.isdir(output):
        if len(inputs) > 1:
            raise ConfigError(f"{output}: several inputs need a folder, one that is there or ends in {os.sep}")
        jobs = [Job(inputs[0], output)]
    elif STANDARD in inputs:
        raise ConfigError(f"{output}: standard input has no name to go by in a folder; name the file")
    else:
        jobs = [Job(name, os.path.join(output, Path(name).stem + suffix)) for name in inputs]
    made = {}
    for job in jobs:
        if other := made.get(job.output):
            raise ConfigError(f"{other} and {job.input} would both become {job.output}")
        made[job.output] = job.input
    read = {_identity(job.input) for job in jobs} - {None}
    for job in jobs:
        if _identity(job.output) in read:
            raise ConfigError(f"{job.output}: is an input and would be overwritten")
    if output.endswith(os.sep):
        os.makedirs(output, exist_ok=True)
    return jobs


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _read(path: str) -> bytes:
    if path != STANDARD:
        return Path(path).read_bytes()
    if sys.stdin is None:
        raise ValueError("it is closed")
    return sys.stdin.buffer.read()


def _write(path: str, data: bytes) -> None:
    from agvae.files import write_atomically

    if path == STANDARD:
        _to_standard_output(data)
    else:
        write_atomically(path, data)


def _to_standard_output(data: bytes) -> None:
    if sys.stdout is None:
        raise ValueError("standard output is closed")
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
    except OSError as error:
        # What is left in the buffer would fail once more when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OSError(error.errno, error.strerror, "standard output") from error


def _print(text: str) -> None:
    _to_standard_output(f"{text}\n".encode(errors="backslashreplace"))


class _Progress:
    """A bar over all inputs on standard error, if that is a terminal and the work takes over a second.

    Called with the share of the current input that is done. A thread draws, so that the time goes on where no share
    is reported for long."""

    def __init__(self, jobs: int):
        self._done = 0
        self._place = 0.0
        self._bar = None
        if sys.stderr is not None and sys.stderr.isatty():
            from tqdm import tqdm

            form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}"
            self._bar = tqdm(total=jobs, delay=1, miniters=0, leave=False, bar_format=form)
            self._closed = threading.Event()
            self._thread = threading.Thread(target=self._draw, daemon=True)
            self._thread.start()

    def _draw(self) -> None:
        while not self._closed.wait(0.2):
            self._bar.update(self._place - self._bar.n)

    def begin(self, job: Job) -> None:
        if self._bar is not None:
            self._bar.set_description_str(Path(job.source).name, refresh=False)

    def __call__(self, share: float) -> None:
        self._place = self._done + share

    def end(self) -> None:
        self._done += 1
        self._place = self._done

    @contextlib.contextmanager
    def interrupted(self) -> Iterator[None]:
        """Make room for lines of text."""
        if self._bar is None:
            yield
            return
        with self._bar.get_lock():
            self._bar.clear()
            yield

    def close(self) -> None:
        if self._bar is not None:
            self._closed.set()
            self._thread.join()
            self._bar.close()


class _Result(NamedTuple):
    """A file made, what to say about it, and about what could not be kept."""

    data: bytes
    words: str
    notes: list[str]


def _run(jobs: list[Job], work: Callable[[Job, _Progress], _Result]) -> int:
    """Do all jobs; the exit status is 1 if one failed, each with its line.

    What is wrong with the command or the model, ConfigError and DataError, ends them all."""
    status = 0
    progress = _Progress(len(jobs))
    try:
        for job in jobs:
            progress.begin(job)
            try:
                _check_folders(job)
                result = work(job, progress)
                _write(job.output, result.data)
            except (ConfigError, DataError):
                raise
            except (ValueError, OSError, MemoryError, RuntimeError) as error:
                with progress.interrupted():
                    status = _fail(_reason(error, job), 1)
            else:
                with progress.interrupted():
                    _report(job, result)
            progress.end()
    finally:
        progress.close()
    return status


def _report(job: Job, result: _Result) -> None:
    for note in result.notes:
        print(f"agvae: note: {_one_line(note)}", file=sys.stderr)
    words = f"{job.target}: {result.words}"
    if job.output == STANDARD:
        print(words, file=sys.stderr)
    else:
        _print(words)


def _check_folders(job: Job) -> None:
    if os.path.isdir(job.input):
        raise ValueError(f"is a folder; name the files in it, as in {os.path.join(job.input, '*')}")
    folder = os.path.dirname(job.output)
    if folder and not os.path.isdir(folder):
        raise ValueError(f"there is no folder {folder} to write to")


def _reason(error: Exception, job: Job) -> object:
    if isinstance(error, OSError) and error.filename:
        return error
    if isinstance(error, RuntimeError):
        if not is_out_of_memory(error):
            raise error
        error = "not enough memory"
    return f"{job.source}: {str(error) or 'not enough memory'}"


# ------------------------------------------------------------- commands


def _compress(options: argparse.Namespace) -> int:
    jobs = _jobs(options.paths, ".agv", "OUT.agv or a folder")
    if wrong := [job.output for job in jobs if _is_picture(job.output)]:
        raise ConfigError(f"{wrong[0]}: the output of compress is an .agv file or a folder, not a picture")
    names = ("quality", "bpp", "bytes", "psnr", "ms_ssim")
    target = {name: getattr(options, name) for name in names if getattr(options, name) is not None}

    @functools.cache
    def codec() -> "Codec":
        from agvae.codec import open_codec
        from agvae.quality import check_quality

        loaded = open_codec(options.model or DEFAULT_MODEL, options.device)
        if not target:
            target["quality"] = (loaded.levels - 1) / 2
        if "quality" in target:
            try:
                check_quality(target["quality"], loaded.levels)
            except ValueError as error:
                raise ConfigError(error) from None
        return loaded

    def work(job: Job, progress: _Progress) -> _Result:
        from agvae.codec.bitstream import quality_of
        from agvae.images import read_picture

        source = io.BytesIO(_read(job.input)) if job.input == STANDARD else job.input
        picture = read_picture(source, options.max_pixels)
        if options.strip:
            picture = dataclasses.replace(picture, exif=None, icc=None)
        loaded = codec()
        data = loaded.compress(picture, **target, progress=progress)
        height, width = picture.pixels.shape[:2]
        words = f"{len(data)} bytes, {8 * len(data) / (width * height):.4f} bpp, quality {quality_of(data):.4g}"
        return _Result(data, words, [f"{job.source}: {phrase}" for phrase in picture.lost])

    return _run(jobs, work)


def _is_picture(path: str) -> bool:
    suffix = Path(path).suffix.lower()
    if suffix in ("", ".agv"):
        return False
    from PIL import Image

    return suffix in Image.registered_extensions()


def _decompress(options: argparse.Namespace) -> int:
    from agvae.images import ImageError, encode_image, format_of

    form = f".{(options.format or 'png').lower().removeprefix('.')}"
    jobs = _jobs(options.paths, form, "OUT or a folder")
    if os.path.isdir(options.paths[-1]) or jobs[0].output == STANDARD:
        suffix = form
    elif options.format is None:
        suffix = Path(jobs[0].output).suffix
    else:
        raise ConfigError("--format is for a folder or standard output; the suffix of a file says its format")
    try:
        format_of(suffix)
    except ImageError as error:
        folder = "" if Path(jobs[0].target).suffix else f"; a folder must be there or end in {os.sep}"
        raise ConfigError(f"{jobs[0].target}: {error}{folder}") from None

    @functools.cache
    def codec_of(name: str) -> "Codec":
        from agvae.codec import open_codec

        return open_codec(name, options.device)

    model_of = functools.cache(_model_of)

    def work(job: Job, progress: _Progress) -> _Result:
        data = _read(job.input)
        from agvae.codec.bitstream import unpack

        header, _ = unpack(data)
        codec = codec_of(options.model or model_of(header.fingerprint))
        image = codec.decompress(data, max_pixels=options.max_pixels, progress=progress)
        file, lost = encode_image(image, suffix)
        return _Result(file, f"{image.width}×{image.height}", [f"{job.target}: {phrase}" for phrase in lost])

    return _run(jobs, work)


def _model_of(fingerprint: bytes) -> str:
    from agvae.codec import BitstreamError, model_file

    for name in model_file.names_of_models():
        if model_file.load(name).fingerprint == fingerprint:
            return name
    raise BitstreamError(
        f"made by the model {fingerprint.hex()}, which does not come with agvae; give its file with --model"
    )


def _info(options: argparse.Namespace) -> int:
    status, shown = 0, 0
    for path in options.paths:
        try:
            facts = _facts(Job(path, ""))
        except (ValueError, OSError) as error:
            status = _fail(error, 1)
            continue
        if options.json:
            _print(json.dumps(facts))
        else:
            facts["grey"] = "yes" if facts["grey"] else "no"
            lines = [f"{name.replace('_', ' '):13} {value}" for name, value in facts.items()]
            _print("\n".join([""] * (shown > 0) + lines))
        shown += 1
    return status


def _facts(job: Job) -> dict[str, str | int | float]:
    """What the header of the file `job.input` says. Raises ValueError, which names the file, or OSError."""
    try:
        data = _read(job.input)
        from agvae.codec.bitstream import unpack
        from agvae.quality import quality_from_fixed

        header, stream = unpack(data)
    except ValueError as error:
        raise ValueError(f"{job.source}: {error}") from error
    return {
        "file": job.input,
        "width": header.width,
        "height": header.height,
        "grey": header.grey,
        "quality": quality_from_fixed(header.quality),
        "bytes": len(data),
        "header_bytes": len(data) - len(stream),
        "alpha_bytes": len(header.alpha),
        "exif_bytes": len(header.exif),
        "icc_bytes": len(header.icc),
        "bpp": 8 * len(data) / (header.width * header.height),
        "model": header.fingerprint.hex(),
    }


def _models(options: argparse.Namespace) -> None:
    from agvae.codec import model_file

    names = model_file.names_of_models()
    for name in names:
        model = model_file.load(name)
        parts = model.config
        count = sum(w.numel() for w in model.weights.values())
        _print(
            f"{name}: {parts['transforms']['name']}, {parts['gain']['name']} with {parts['gain']['levels']} levels, "
            f"{parts['entropy']['name']}, context {parts['context']['name']}, {count / 1e6:.1f} M parameters, "
            f"{model.fingerprint.hex()}"
        )
    if not names:
        _print("No trained model comes with this version; train one with train.py and use its file with --model.")


def _export(options: argparse.Namespace) -> None:
    from agvae.codec import model_file

    if options.output.suffix != ".safetensors":
        raise ConfigError(f"{options.output}: a model file has the suffix .safetensors")
    model = model_file.from_checkpoint(options.checkpoint, options.half)
    model.save(options.output)
    size = options.output.stat().st_size
    _print(f"{options.output}: {size / 1e6:.1f} MB, of it {model.tables.nbytes / 1e6:.2f} MB coding tables")


def _shard(options: argparse.Namespace) -> None:
    from agvae.data.shards import summary, write_shards

    index, headers = write_shards(options.folder, options.output, options.size * 10**6)
    for reason in headers.unreadable:
        print(f"agvae: note: left out: {_one_line(reason)}", file=sys.stderr)
    _print(f"{options.output}: {summary(index)}; train with data=shards data.root={options.output}")


def _report_runs(options: argparse.Namespace) -> None:
    job = Job("", options.output)
    _check_folders(job)
    from agvae.reporting.compare import compare
    from agvae.reporting.html import render
    from agvae.reporting.runs import read_runs

    comparison = compare(read_runs(options.paths))
    page = render(comparison, options.title or f"AG-VAE runs in {', '.join(options.paths)}")
    _write(job.output, page.encode())
    for note in comparison.notes:
        print(f"agvae: note: {_one_line(note)}", file=sys.stderr)
    words = f"{job.target}: {len(comparison.training)} training runs, {len(comparison.panels)} sets of images"
    print(words, file=sys.stderr if job.output == STANDARD else sys.stdout)


if __name__ == "__main__":
    sys.exit(main())
