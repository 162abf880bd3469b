"""Protocols: how the papers evaluate an encoder, by the configs of configs/eval/."""
