"""SlimCLR (arXiv 2209.15525): slimmable networks for contrastive self-supervised learning."""

__version__ = "0.1.0"
