"""How good are the features? Everything here needs the encoder, or only its features, and nothing of the method."""
