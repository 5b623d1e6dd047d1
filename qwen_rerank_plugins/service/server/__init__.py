"""The server process: socket, HTTP protocol, signals and shutdown."""
