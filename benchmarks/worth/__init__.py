"""The parts of `python -m benchmarks.worth`: rows, ways to judge them, where these stand, the picture."""
