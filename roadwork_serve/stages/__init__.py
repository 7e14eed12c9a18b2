"""The stages: from an item to a prediction, using an engine."""
