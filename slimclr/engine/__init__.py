"""The one training loop, with checkpoints, processes and logs."""
