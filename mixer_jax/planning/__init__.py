"""Memory, time and cost of a run on a TPU slice, before a chip is rented; touches no device."""
