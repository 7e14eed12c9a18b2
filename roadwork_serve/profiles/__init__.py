"""Profiles: models, backends and resources, the shipped policies, and the placement planner."""
