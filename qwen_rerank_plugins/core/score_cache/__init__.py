"""Scores by key, in memory and on disk. Holds no text."""
