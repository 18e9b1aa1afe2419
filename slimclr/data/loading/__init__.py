"""Samplers, and loaders that turn the sampled images into batches of views."""
