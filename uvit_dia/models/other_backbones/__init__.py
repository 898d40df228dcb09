"""A shared attention unit in any torch model."""
