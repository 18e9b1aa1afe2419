"""Views of photos: recipes, the random numbers of a view, and three interpreters (Pillow, tensors, DALI)."""
