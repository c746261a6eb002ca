"""The command line of `agvae demo`."""

import argparse

from agvae.arguments import count
from agvae.errors import ConfigError

MAX_PIXELS = 2**24
"""Largest picture that the page takes, unless the caller says otherwise: those of most cameras, 16.8 megapixels."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the options of `agvae demo`."""
    parser.add_argument(
        "--model",
        metavar="NAME_OR_PATH",
        help="the model that the page starts with, beside which it offers all of `agvae models` (default: the first)",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="H", help="address to listen on (default: 127.0.0.1, this machine only)"
    )
    parser.add_argument("--port", type=count, metavar="P", help="(default: the first free one from 7860 on)")
    parser.add_argument(
        "--share", action="store_true", help="make the page public through a tunnel of gradio's, for a week at most"
    )
    parser.add_argument(
        "--max-pixels", type=count, metavar="N", default=MAX_PIXELS, help="refuse larger pictures (default: 2^24)"
    )
    parser.add_argument("--device", default="cpu", metavar="D", help="cpu (default), cuda, cuda:1, …")
    parser.add_argument(
        "--space", metavar="OUT", help="open no page; write a folder that a Hugging Face Space runs as it is"
    )
    parser.set_defaults(command=demo)


def demo(options: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C, or write a Space's folder.

    Raises ConfigError if gradio is not installed or a setting cannot work, and DataError for a model that cannot be
    used."""
    try:
        from agvae.demo import serving
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "gradio":
            raise
        raise ConfigError("agvae demo needs gradio, which is not installed: pip install -e '.[demo]'") from error
    from agvae.codec.shipped import DEFAULT_MODEL

    model = options.model or DEFAULT_MODEL
    if options.space:
        from agvae.demo.space import write_space

        write_space(options.space, model, options.max_pixels)
        print(f"{options.space}: a Space; upload the whole folder")
        return
    serving.serve(
        model,
        options.max_pixels,
        device=options.device,
        host=options.host,
        port=options.port,
        share=options.share,
    )
