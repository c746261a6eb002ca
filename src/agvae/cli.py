"""The `agvae` command: compress and decompress pictures, look at files and models, export checkpoints.

Ends with status 0, 1 for input that cannot be used, 2 for wrong usage; an error is one line on standard error.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

# Everything heavy is imported by the command that needs it: `agvae --help` answers at once.

DEFAULT_MODEL = "agvae-mse"


class UsageError(ValueError):
    """A command line that asks for something that cannot be."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `arguments` (those of the process by default) and return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
    except UsageError as error:
        return _fail(error, 2)
    except (ValueError, OSError) as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    return 0


def _fail(error: object, status: int) -> int:
    if isinstance(error, OSError) and error.filename:
        error = f"{error.filename}: {error.strerror}"
    print(f"agvae: {' '.join(str(error).split())}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("agvae", description="Compress pictures with one learned model at any rate.")
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    parser.set_defaults(command=lambda options: _print_version() if options.version else parser.print_help())
    commands = parser.add_subparsers(metavar="COMMAND")

    compress = commands.add_parser("compress", help="turn a picture into an .agv file")
    compress.add_argument("input", type=Path, metavar="IN", help="a picture in any format that Pillow reads")
    compress.add_argument("output", type=Path, metavar="OUT.agv")
    compress.add_argument(
        "--quality",
        type=float,
        metavar="Q",
        help="from 0, the smallest file, to the model's levels − 1; any value between (default: the middle)",
    )
    compress.set_defaults(command=_compress)

    decompress = commands.add_parser("decompress", help="turn an .agv file into a picture")
    decompress.add_argument("input", type=Path, metavar="IN.agv")
    decompress.add_argument("output", type=Path, metavar="OUT", help="the suffix gives the format: .png, .jpg, …")
    decompress.set_defaults(command=_decompress)

    for command in (compress, decompress):
        command.add_argument(
            "--model",
            metavar="NAME_OR_PATH",
            help="a model of `agvae models`, or a .safetensors file (default: "
            + (f"{DEFAULT_MODEL})" if command is compress else "the one of `agvae models` that made the file)"),
        )
        command.add_argument("--device", default="cpu", metavar="D", help="cpu (default), cuda, cuda:1, …")

    info = commands.add_parser("info", help="show what an .agv file is")
    info.add_argument("input", type=Path, metavar="IN.agv")
    info.add_argument("--json", action="store_true", help="as one JSON object")
    info.set_defaults(command=_info)

    models = commands.add_parser("models", help="list the models that come with agvae")
    models.set_defaults(command=_models)

    export = commands.add_parser("export", help="turn a training checkpoint into a model file")
    export.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    export.add_argument("output", type=Path, metavar="OUT.safetensors")
    export.add_argument("--half", action="store_true", help="store the weights as float16: half the size")
    export.set_defaults(command=_export)
    return parser


def _print_version() -> None:
    from agvae import __version__

    print(f"agvae {__version__}")


def _compress(options: argparse.Namespace) -> None:
    from PIL import Image

    from agvae.codec import Codec
    from agvae.files import write_atomically
    from agvae.images import load_rgb
    from agvae.models.gain import quality_to_fixed

    image = Image.fromarray(load_rgb(options.input))
    codec = Codec.load(options.model or DEFAULT_MODEL, _device(options.device))
    quality = (codec.levels - 1) / 2 if options.quality is None else options.quality
    try:
        quality_to_fixed(quality, codec.levels)
    except ValueError as error:
        raise UsageError(error) from None
    data = codec.compress(image, quality=quality)
    write_atomically(options.output, data)
    bpp = 8 * len(data) / (image.width * image.height)
    print(f"{options.output}: {len(data)} bytes, {bpp:.4f} bpp, quality {quality:g}")


def _decompress(options: argparse.Namespace) -> None:
    import io

    from PIL import Image

    from agvae.codec import BitstreamError, Codec
    from agvae.codec.bitstream import unpack
    from agvae.files import write_atomically

    Image.init()
    suffix = options.output.suffix.lower()
    if Image.EXTENSION.get(suffix) not in Image.SAVE:
        raise UsageError(f"{options.output}: no picture format has the suffix {suffix or '(none)'}")
    data = options.input.read_bytes()
    try:
        header, _ = unpack(data)
        device = _device(options.device)
        codec = Codec.load(options.model or _model_of(header.fingerprint), device)
        image = codec.decompress(data)
    except BitstreamError as error:
        raise ValueError(f"{options.input}: {error}") from error
    picture = io.BytesIO()
    image.save(picture, Image.EXTENSION[suffix])
    write_atomically(options.output, picture.getvalue())
    print(f"{options.output}: {image.width}×{image.height}")


def _model_of(fingerprint: bytes) -> str:
    from agvae.codec import BitstreamError, model_file

    for name in model_file.names_of_models():
        if model_file.load(name).fingerprint == fingerprint:
            return name
    raise BitstreamError(
        f"made by the model {fingerprint.hex()}, which does not come with agvae; give its file with --model"
    )


def _info(options: argparse.Namespace) -> None:
    from agvae.codec.bitstream import BitstreamError, unpack
    from agvae.models.gain import quality_from_fixed

    data = options.input.read_bytes()
    try:
        header, stream = unpack(data)
    except BitstreamError as error:
        raise ValueError(f"{options.input}: {error}") from error
    facts = {
        "width": header.width,
        "height": header.height,
        "quality": quality_from_fixed(header.quality),
        "bytes": len(data),
        "header_bytes": len(data) - len(stream),
        "bpp": 8 * len(data) / (header.width * header.height),
        "model": header.fingerprint.hex(),
    }
    if options.json:
        print(json.dumps(facts))
    else:
        print("\n".join(f"{name.replace('_', ' '):13} {value}" for name, value in facts.items()))


def _models(options: argparse.Namespace) -> None:
    from agvae.codec import model_file

    names = model_file.names_of_models()
    for name in names:
        model = model_file.load(name)
        parts = model.config
        count = sum(w.numel() for w in model.weights.values())
        print(
            f"{name}: {parts['transforms']['name']}, {parts['gain']['name']} with {parts['gain']['levels']} levels, "
            f"{parts['entropy']['name']}, context {parts['context']['name']}, {count / 1e6:.1f} M parameters, "
            f"{model.fingerprint.hex()}"
        )
    if not names:
        print("No trained model comes with this version; train one with train.py and use its file with --model.")


def _export(options: argparse.Namespace) -> None:
    from agvae.codec import model_file

    if options.output.suffix != ".safetensors":
        raise UsageError(f"{options.output}: a model file has the suffix .safetensors")
    model = model_file.from_checkpoint(options.checkpoint, options.half)
    model.save(options.output)
    size = options.output.stat().st_size
    print(f"{options.output}: {size / 1e6:.1f} MB, of it {model.tables.nbytes / 1e6:.2f} MB coding tables")


def _device(name: str) -> str:
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {name}: {str(error).splitlines()[0]}") from None
    return name


if __name__ == "__main__":
    sys.exit(main())
