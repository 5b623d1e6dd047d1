"""Text to token ids: prompt families, tokenizer, truncation and chunking. Knows no tensors."""
