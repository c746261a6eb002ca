"""`python -m agvae.reporting.paper`."""

from agvae.reporting.paper import main

if __name__ == "__main__":
    main()
