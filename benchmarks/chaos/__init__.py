"""Fault injection under load; plan, outcomes, versions, figures and checks are pure functions."""
