"""From images to distances."""
