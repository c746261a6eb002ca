"""The commands of `agvae`. Each takes the parsed options and returns an exit status, or None for 0."""
