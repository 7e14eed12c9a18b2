"""roadwork-serve: an inference server that detects active road work in photos and clips with a cascade of models."""

__version__ = "0.1.0"
