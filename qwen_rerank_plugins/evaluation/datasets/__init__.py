"""Queries, passages and judgements from BEIR, MTEB and TREC files."""
