"""The parts of `python -m benchmarks.cost_accuracy`: rows, methods, their comparison, the plot."""
