"""What training leaves behind for study: gradient imbalance and divergence between widths."""
