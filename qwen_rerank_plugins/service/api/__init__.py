"""HTTP handlers, their table of endpoints, and the OpenAPI description."""
