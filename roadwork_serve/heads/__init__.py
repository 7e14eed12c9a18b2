"""Training of stage 1 heads on features of the frozen backbone, cross-validation, model cards."""
