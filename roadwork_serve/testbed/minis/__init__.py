"""Miniatures: small models of the production architectures, their training and model cards."""
