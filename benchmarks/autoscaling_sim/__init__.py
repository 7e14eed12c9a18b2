"""Event simulation of a day of traffic through the cascade, on a cluster of GPUs."""
