"""Checkpoints: files and their formats in, the decoder's weights out. Knows no text and no requests."""
