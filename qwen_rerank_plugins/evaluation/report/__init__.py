"""An evaluation as JSON and as an offline HTML page."""
