"""The training of the demo checkpoint: text, tokenizer, curriculum and training loop.

Run it with ``python -m scripts.train_demo``. The package does not import this code.
"""
