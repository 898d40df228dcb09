"""Benchmarks: variants in turn within one run, as ratios with their spread. See docs/speed.md."""
