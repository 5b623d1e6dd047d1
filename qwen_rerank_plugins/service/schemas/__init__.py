"""Request and answer bodies: one module per dialect, and what they share."""
