"""Params, data set -> numbers."""
