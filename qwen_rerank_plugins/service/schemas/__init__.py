"""Request and response bodies: one module per API that rerank clients speak, and what they share."""
