"""What `benchmarks/gpu.py` is made of: models with random weights, a clock, and the record that is written."""
