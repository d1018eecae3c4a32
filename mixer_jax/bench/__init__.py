"""How fast the devices that are here run a model, its input and its loop."""
