"""Log of a run: metrics.jsonl, progress, the terminal."""
