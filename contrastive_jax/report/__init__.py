"""One self-contained HTML page about a run: `python -m contrastive_jax.report --workdir=RUN`.

`record.py` reads what the run recorded in its workdir. `analysis.py` computes arrays with the encoder of the run, and
`staleness.py` compares the entries of a queue or bank with current features. `charts.py`, `images.py` and `facts.py`
turn numbers into SVG, data URIs and table rows. `sections.py` builds the sections from these, and `page.py` renders
them with the template `page.html`.
"""
