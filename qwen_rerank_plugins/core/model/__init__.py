"""The decoder: packed prompts in, log-odds out, with its layers, packing and attention. Knows no files and no text."""
