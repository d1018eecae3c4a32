"""What a person sees of a run: a line on the screen, a file of metrics, pictures."""
