"""Training with Lightning: the module, its losses and callbacks, and the files of a run."""
