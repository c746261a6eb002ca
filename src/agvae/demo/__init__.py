"""A page in the browser to try the codec: `agvae demo`."""
