"""Optimizers and schedules as in the official code of the papers, and building them from a config."""
