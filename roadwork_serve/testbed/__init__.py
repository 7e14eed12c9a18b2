"""Synthetic data and training of the miniatures. Nothing that serves imports it."""
