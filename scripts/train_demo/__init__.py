"""What made the demo checkpoint: text, tokenizer, curriculum and loop.

Run it with ``python -m scripts.train_demo``. Nothing here is imported by the package at run
time.
"""
