"""Training: the pure step, the run that a config makes, its data, and the loop around them."""
