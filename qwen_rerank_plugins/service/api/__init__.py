"""The HTTP addresses: one function per address."""
