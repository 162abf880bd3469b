"""Trains and evaluates what a published number was measured on, and compares."""
