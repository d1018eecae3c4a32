"""State, batch -> state, metrics."""
