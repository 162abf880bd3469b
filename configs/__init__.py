"""One readable file per paper recipe."""
