"""Merges the requests of many threads and tasks into batches for one worker per device."""
