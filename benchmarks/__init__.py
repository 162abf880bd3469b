"""Measured comparisons, each runnable as `python -m benchmarks.NAME`; never timed tests."""
