"""The parts of `python -m benchmarks.gpu_check`: checkpoints without weights, measurements, and the results."""
