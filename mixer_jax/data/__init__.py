"""Records -> batches of NumPy arrays."""

import os

from mixer_jax import home

MAX_PIXELS = 2**27
"""Pixels of the largest image that is decoded: 134 million, 16,384 × 8,192."""

# OpenCV reads it when it is imported.
os.environ.setdefault('OPENCV_IO_MAX_IMAGE_PIXELS', str(MAX_PIXELS))
home.choose_data_folder()
