"""The paper's figures and tables, one command for each: `python -m agvae.reporting.paper COMMAND --help`.

figure1: gain vectors. figure2: entropy models over a latent. figures3-6: codecs side by side at one rate. equations:
the cost of gain units. rd: rate-distortion plots. Each command writes a picture or table into --output, with its
numbers as JSON. An error is one line on standard error, with status 2 for wrong usage and 1 for input that cannot be
used.
"""

from collections.abc import Sequence

from agvae.errors import exit_on_error
from agvae.reporting.paper.parser import build_parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line `arguments`, those of the process by default."""
    options = build_parser().parse_args(arguments)
    exit_on_error(options.command, options)
