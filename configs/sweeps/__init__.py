"""Sweep configs."""
