"""Trained models for others: a folder that diffusers loads, its model card, the Hub."""
