"""One self-contained HTML page about a run: `python -m contrastive_jax.report --workdir=RUN`.

`run.py` reads what the workdir says, `look.py` looks through the encoder at the data, `staleness.py` at what the method
remembers, `charts.py` and `images.py` make pictures that live inside a page, and `page.py` puts it together.
"""
