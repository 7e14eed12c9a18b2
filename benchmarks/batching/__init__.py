"""The batcher alone: in virtual time, over a model that is only a time, against Ray Serve's and the best there is."""
