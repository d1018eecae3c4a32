"""A folder of runs and studies -> one HTML page."""
