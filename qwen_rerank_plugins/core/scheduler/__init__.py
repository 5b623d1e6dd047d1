"""Requests of many threads and tasks, merged into batches for one worker per device."""
