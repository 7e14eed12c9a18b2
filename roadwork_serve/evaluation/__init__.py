"""Evaluation: rows of predictions, replay of policies, metrics, confidence intervals, reports."""
