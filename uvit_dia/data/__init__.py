"""Image sets, and the batches of a training run."""
