"""Reproduces published accuracies: trains, evaluates, and compares with a reference.

`references.py` lists the experiments, `run_experiment.py` trains and evaluates one, `results.py` compares and records
its accuracies, `table.py` prints tables.
"""
