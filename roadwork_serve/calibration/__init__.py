"""Fitting of policies: calibration curves, exit bands with a proven error bound, comparison."""
