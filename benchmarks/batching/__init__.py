"""Simulation of the batcher in virtual time, compared with Ray Serve's and with the best possible."""
