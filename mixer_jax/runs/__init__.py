"""A config -> one training run, or one checkpoint ready to be looked at."""
