"""Pictures: `figures` draws arrays, `pictures` brings the data of a run to it."""
