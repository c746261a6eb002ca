"""Training with Lightning: the module, its losses and callbacks, and what a run writes."""
