"""Measures of frozen features: kNN, a linear classifier, signals of collapse. They know the encoder, not the method."""
