"""Experiments: one file each, complete, with its command."""
