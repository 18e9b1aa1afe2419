"""Loaders: which images an epoch shows to which process, and how they become batches."""
