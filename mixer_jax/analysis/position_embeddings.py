"""Similarity of the position embeddings of a model (ViT paper, Figure 7 centre)."""

import numpy as np

from mixer_jax import models


def similarity(config: models.ModelConfig, params: dict) -> np.ndarray:
  """Return the cosine of the position embeddings of every two patches, (G, G, G, G) float32.

  [r, c] is the picture of the patch in row r and column c: its cosine with each patch. It is 0
  where an embedding is zero. The class token's own embedding, if there is one, is left out.

  Raises:
    UserError: the model has no position embeddings.
  """
  table = models.capability(config, 'position_embeddings')(config, params)
  flat = table.reshape(-1, table.shape[-1]).astype(np.float64)
  norms = np.linalg.norm(flat, axis=1, keepdims=True)
  unit = np.divide(flat, norms, out=np.zeros_like(flat), where=norms != 0)
  return (unit @ unit.T).reshape(table.shape[:2] * 2).astype(np.float32)
