"""Weights in and out: published checkpoints into our encoders, and our encoders to where they are used."""
