"""Evaluations during a run: one module per kind, listed in `registry.KINDS`."""
