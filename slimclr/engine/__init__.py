"""The training loop, with its checkpoints, process group, finite check and records."""
