"""The version, the same for all distributions of the project."""

__version__ = "0.2.0"
