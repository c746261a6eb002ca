"""A page in the browser to look at the codec: `agvae demo`."""
