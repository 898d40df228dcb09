"""What the unit does inside a trained network (`python -m uvit_dia.analysis`)."""
