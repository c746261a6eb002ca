"""`python -m agvae`: the `agvae` command."""

import sys

from agvae.cli import main

if __name__ == "__main__":
    sys.exit(main())
