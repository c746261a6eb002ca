"""The `agvae` command: compress and decompress pictures, look at files and models, export checkpoints.

    main ─► parser ─► commands ─► jobs (one output for each input) ─► streams (files and standard streams)

The exit status is 0, 1 for input that cannot be used, 2 for wrong usage, or 130 for Ctrl-C. An error is one line on
standard error. If one of several inputs fails, the command still processes the others.

Each command imports heavy packages itself, when it needs them. So `agvae --help` answers at once, and an unreadable
file is reported before torch is loaded.
"""

from collections.abc import Sequence

from agvae.cli.parser import parse
from agvae.cli.streams import fail
from agvae.errors import ConfigError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `arguments` (those of the process by default) and return the exit status."""
    try:
        options = parse(arguments)
        return options.command(options) or 0
    except ConfigError as error:
        return fail(error, 2)
    except (ValueError, OSError) as error:
        return fail(error, 1)
    except KeyboardInterrupt:
        return fail("interrupted", 130)
