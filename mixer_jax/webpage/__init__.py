"""One HTML page from folders of runs and studies."""
