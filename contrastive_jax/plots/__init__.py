"""Pictures of a run: `figures` draws arrays, `pictures` collects the arrays from a run, `panels` lists the curves."""
