"""Records -> batches of NumPy arrays."""

from mixer_jax import home

home.choose_data_folder()
