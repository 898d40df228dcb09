"""From a trained network to images."""
