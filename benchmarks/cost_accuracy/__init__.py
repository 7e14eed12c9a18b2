"""The parts of `python -m benchmarks.cost_accuracy`: rows, ways to judge them, where these stand, the picture."""
