"""The folder of a run: its config, checkpoints, metrics and the record of its sessions."""
