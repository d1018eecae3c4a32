"""Speed of a model, its input and its training loop on the devices of this machine."""
