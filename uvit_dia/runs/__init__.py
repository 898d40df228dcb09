"""A run's folder, its checkpoints, and the model that was trained in it."""
