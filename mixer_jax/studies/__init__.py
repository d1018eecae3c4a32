"""Several training runs that answer one question, and their reports."""
