"""Text to token ids: prompt families, the tokenizer, truncation and chunking. Knows no tensors."""
