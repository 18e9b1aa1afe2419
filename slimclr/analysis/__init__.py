"""Analyses of training: gradient imbalance and divergence between widths."""
