"""The process: socket, HTTP protocol, logging, signals and shutdown."""
