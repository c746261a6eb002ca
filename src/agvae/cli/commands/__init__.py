"""The commands of `agvae`: each takes the parsed options and returns an exit status, or None for 0."""
