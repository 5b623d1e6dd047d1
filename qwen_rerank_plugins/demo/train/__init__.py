"""What made the demo checkpoint: text, tokenizer, curriculum and loop.

Run it with ``python -m qwen_rerank_plugins.demo.train``. Nothing here is imported by the package at run
time.
"""
