"""The decoder: checkpoint, weights, layers and attention over a packed forest. Knows no text and no requests."""
