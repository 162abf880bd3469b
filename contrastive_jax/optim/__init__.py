"""Optimizers and schedules as the papers have them, and what a config builds of them."""
