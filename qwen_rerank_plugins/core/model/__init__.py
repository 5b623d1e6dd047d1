"""The decoder: checkpoint, weights, layers, packing and attention. Knows no text and no requests."""
