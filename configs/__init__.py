"""Recipes: one file for each paper."""
