"""How the encoder of a run is judged: one readable file per protocol."""
