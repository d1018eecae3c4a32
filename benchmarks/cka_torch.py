"""torch_cka on timm's Mixer for cka.py, in an interpreter that has them but not this package.

Usage: python cka_torch.py WEIGHTS CONFIG IMAGES BATCH LAYERS RESULT

IMAGES is an .npy file of uint8 images, LAYERS names of timm's modules joined by commas. One
line of input is a request; one line of output reports that the matrix is in the .npy file RESULT.
"""

import json
import sys
import warnings

from peers_torch import DEVICE, answer, make_model  # first: output of libraries is not an answer

try:
  import numpy as np
  import torch  # pyright: ignore[reportMissingImports]
  from torch_cka import CKA  # pyright: ignore[reportMissingImports]
except ImportError as error:
  answer(missing=str(error))
  raise SystemExit(0) from None


def main(weights: str, text: str, images: str, batch: str, names: str, result: str) -> None:
  """Compare the model with itself, once per request."""
  warnings.simplefilter('ignore')  # about comparing one model on one data set, as intended
  model = make_model(weights, json.loads(text))
  pixels = torch.from_numpy(np.load(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
  data = torch.utils.data.TensorDataset(pixels)
  loader = torch.utils.data.DataLoader(data, batch_size=int(batch))
  layers = names.split(',')
  answer(torch=torch.__version__)
  for _ in sys.stdin:
    compared = CKA(model, model, 'x', 'y', layers, layers, device=DEVICE)
    with torch.inference_mode():
      compared.compare(loader)
    # In the order of the calls, which is that of the layers.
    np.save(result, compared.export()['CKA'].cpu().numpy())
    for module in model.modules():
      module._forward_hooks.clear()  # torch_cka does not remove its own
    answer()


if __name__ == '__main__':
  main(*sys.argv[1:])
