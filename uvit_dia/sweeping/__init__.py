"""From a grid of variants, batch sizes and seeds to finished runs; `uvit_dia.sweep` is the command."""
