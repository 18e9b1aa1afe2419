"""Augmentation: recipes of views, their random numbers, and three implementations (Pillow, tensors, DALI)."""
