"""A steady load for an hour: whether anything is lost, and whether anything grows."""
