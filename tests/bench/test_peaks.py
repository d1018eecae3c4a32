"""Peaks by the names that JAX gives to devices."""

import pytest

from mixer_jax.bench.peaks import peak


@pytest.mark.parametrize(
  ('kind', 'dtype', 'tera'),
  [
    ('TPU v2', 'bfloat16', 22.5),  # a core
    ('TPU v3', 'float32', 61.5),  # multiplied in bfloat16
    ('TPU v4', 'bfloat16', 275),
    ('TPU v5 lite', 'bfloat16', 197),
    ('TPU v5e', 'bfloat16', 197),
    ('TPU v5', 'bfloat16', 459),
    ('TPU v5p', 'bfloat16', 459),
    ('TPU v6 lite', 'bfloat16', 918),
    ('NVIDIA A100-SXM4-40GB', 'bfloat16', 312),
    ('NVIDIA A100 80GB PCIe', 'float32', 156),
    ('NVIDIA H100 80GB HBM3', 'bfloat16', 989.4),
    ('NVIDIA H100 PCIe', 'bfloat16', 756),
    ('NVIDIA H200', 'float32', 494.7),
    ('NVIDIA GH200 480GB', 'bfloat16', 989.4),
    ('Tesla V100-SXM2-16GB', 'float16', 125),
    ('Tesla T4', 'float32', 8.1),
    ('NVIDIA L4', 'bfloat16', 121),
    ('NVIDIA L40S', 'bfloat16', 362),
    ('NVIDIA GeForce RTX 4090', 'bfloat16', 165.2),
  ],
)
def test_a_known_device(kind, dtype, tera):
  assert peak(kind, dtype) == pytest.approx(tera * 1e12)


@pytest.mark.parametrize(
  ('kind', 'dtype'),
  [
    ('cpu', 'float32'),
    ('TPU v7', 'bfloat16'),
    ('NVIDIA A10G', 'bfloat16'),  # a different card than the A10
    ('NVIDIA GeForce RTX 4090 Laptop GPU', 'bfloat16'),
    ('Tesla V100-SXM2-16GB', 'bfloat16'),
  ],
)
def test_an_unknown_peak_is_not_guessed(kind, dtype):
  assert peak(kind, dtype) is None
