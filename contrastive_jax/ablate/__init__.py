"""The ablations of the papers as commands: `python -m contrastive_jax.ablate NAME`."""
