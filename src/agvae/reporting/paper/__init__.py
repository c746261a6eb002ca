"""The paper's figures and tables, each one command: `python -m agvae.reporting.paper COMMAND --help`.

figure1 gain vectors · figure2 entropy models over a latent · figures3-6 codecs side by side at one rate · equations
what gain units cost · rd rate-distortion plots. Each writes a picture or table into --output with the numbers behind it
as JSON; an error is one line on standard error, status 2 for wrong usage and 1 for input that cannot be used.
"""

from collections.abc import Sequence

from agvae.errors import exit_on_error
from agvae.reporting.paper.parser import build_parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line `arguments`, those of the process by default."""
    options = build_parser().parse_args(arguments)
    exit_on_error(options.command, options)
