"""The attention units: their protocol, and every unit by name."""
