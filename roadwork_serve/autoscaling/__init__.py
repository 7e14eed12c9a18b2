"""Arrival statistics and the number of replicas each engine needs. Standard library only."""
