"""`agvae demo`: the page in the browser, or the folder of a Space."""

import argparse

from agvae.cli.streams import say
from agvae.errors import ConfigError


def demo(options: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C, or write the folder of a Space.

    Raises ConfigError if gradio is not installed or a setting cannot work, and DataError if a model cannot be used."""
    try:
        from agvae.demo import serving
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "gradio":
            raise
        raise ConfigError("agvae demo needs gradio, which is not installed: pip install -e '.[demo]'") from error
    from agvae.shipped import DEFAULT_MODEL

    model = options.model or DEFAULT_MODEL
    if options.space:
        from agvae.demo.space import write_space

        write_space(options.space, model, options.max_pixels)
        say(f"{options.space}: the Space is ready; upload the whole folder")
        return
    serving.serve(
        model,
        options.max_pixels,
        device=options.device,
        host=options.host,
        port=options.port,
        share=options.share,
    )
