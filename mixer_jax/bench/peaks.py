"""Peak FLOP/s of a device, from its maker's data sheet."""

import re

from mixer_jax.parallel.chips import TPUS

# JAX's names of a TPU's device kinds.
_TPU_KINDS = {
  'v2': r'TPU v2',
  'v3': r'TPU v3',
  'v4': r'TPU v4',
  'v5e': r'TPU v5 ?(lite|e)',
  'v5p': r'TPU v5p?',
  'v6e': r'TPU v6 ?(lite|e)',
}

_DTYPES = ('bfloat16', 'float16', 'float32')

# TFLOP/s in each dtype: dense, accumulated in float32, as XLA multiplies. float32
# is TensorFloat-32, JAX's default precision, where the device has it.
_GPUS = {
  r'.*\bB200\b.*': (2250, 2250, 1125),
  r'.*\bG?H200\b.*|.*\bH100 80GB HBM3.*': (989.4, 989.4, 494.7),
  r'.*\bH100 NVL.*': (835, 835, 417),
  r'.*\bH100 PCIe.*': (756, 756, 378),
  r'.*\bA100\b.*': (312, 312, 156),
  r'.*\bA10': (125, 125, 62.5),
  r'.*\bL40S': (362, 362, 183),
  r'.*\bL4': (121, 121, 60),
  r'.*\bRTX 5090': (209.5, 209.5, 104.8),
  r'.*\bRTX 4090': (165.2, 165.2, 82.6),
  r'.*\bRTX 3090': (71, 71, 35.6),
  r'.*\bRTX A6000': (154.8, 154.8, 77.4),
  r'.*\bV100-SXM2.*': (None, 125, 15.7),  # its tensor cores have no bfloat16
  r'.*\bV100-PCIE.*': (None, 112, 14),
  r'.*\bT4': (None, 65, 8.1),
}


def peak(device_kind: str, dtype: str) -> float | None:
  """Return the peak FLOP/s of one JAX device that multiplies in `dtype`; None: unknown.

  A TPU multiplies float32 in bfloat16, unless JAX is configured otherwise.
  """
  for generation, pattern in _TPU_KINDS.items():
    if re.fullmatch(pattern, device_kind):
      return TPUS[generation].peak
  for pattern, rates in _GPUS.items():
    if re.fullmatch(pattern, device_kind):
      rate = rates[_DTYPES.index(dtype)]
      return rate and rate * 1e12
  return None
