"""The parts of `benchmarks/gpu.py`: models with random weights, timing, and the results."""
