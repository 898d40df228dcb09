"""Errors, files, signals, memory and processes: what is not about diffusion."""
