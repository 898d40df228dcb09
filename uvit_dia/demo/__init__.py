"""A page on the loopback: a trained model samples while its units' gates are watched."""
