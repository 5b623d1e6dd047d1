"""Token ids to log-odds on one device, with cached prefixes and a self-check."""
