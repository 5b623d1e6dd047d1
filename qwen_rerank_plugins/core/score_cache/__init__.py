"""Scores by key, in memory and on disk. Stores no text."""
