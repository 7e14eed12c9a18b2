"""Labeled images generated with diffusion models."""
