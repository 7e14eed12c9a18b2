"""Attacks on a running server, and how others are served meanwhile."""
