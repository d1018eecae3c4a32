"""NumPy archives in memory."""

import io

import numpy as np


def npz_bytes(**arrays) -> bytes:
  """Return arrays by name as the bytes of an .npz file, which can be written to a bucket."""
  buffer = io.BytesIO()
  np.savez(buffer, **arrays)
  return buffer.getvalue()
