"""Training of stage 1 on real pictures: sources, composed pairs, features of a frozen backbone, and heads."""
