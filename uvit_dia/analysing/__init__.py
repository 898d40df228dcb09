"""What the attention unit does inside a trained network; `uvit_dia.analysis` is the command."""
