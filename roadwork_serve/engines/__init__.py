"""Engines: one class for each model family and backend, and the code that loads weights."""
