"""A grid of runs over variants, batch sizes and seeds (`python -m uvit_dia.sweep`)."""
