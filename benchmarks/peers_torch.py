"""timm's models for peers.py, in an interpreter that has torch and timm but not this package.

Usage: python peers_torch.py WEIGHTS CONFIG

A line of JSON on stdin is a request; a line of JSON on stdout is its answer.
"""

import contextlib
import functools
import json
import os
import sys

# Output of libraries must not be mistaken for answers.
ANSWERS = os.fdopen(os.dup(1), 'w')
os.dup2(2, 1)


def answer(**fields) -> None:
  """Write one line without delay."""
  ANSWERS.write(json.dumps(fields) + '\n')
  ANSWERS.flush()


try:
  import numpy as np
  import torch  # pyright: ignore[reportMissingImports]

  try:
    import torchvision  # noqa: F401  # pyright: ignore[reportMissingImports]
  except RuntimeError:  # it was built for another torch: declare the operators it misses
    operators = torch.library.Library('torchvision', 'DEF')
    for name in ('nms', 'qnms'):
      operators.define(f'{name}(Tensor boxes, Tensor scores, float threshold) -> Tensor')
  import timm  # pyright: ignore[reportMissingImports]
  from safetensors.torch import load_file
  from timm.layers.std_conv import StdConv2d  # pyright: ignore[reportMissingImports]
  from timm.models.mlp_mixer import MlpMixer  # pyright: ignore[reportMissingImports]
  from timm.models.resnetv2 import ResNetV2  # pyright: ignore[reportMissingImports]
  from timm.models.vision_transformer import (  # pyright: ignore[reportMissingImports]
    VisionTransformer,
  )
except ImportError as error:
  answer(missing=str(error))
  raise SystemExit(0) from None

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'


def make_model(weights: str, config: dict) -> torch.nn.Module:
  """Return timm's model of these sizes and weights, on the device."""
  model = MODELS[config['family']](config)
  model.load_state_dict(load_file(weights))
  return model.to(DEVICE, memory_format=torch.channels_last)


def _mixer(config: dict) -> torch.nn.Module:
  ratio = tuple(
    config[f'{which}_mlp_dim'] / config['hidden_dim'] for which in ('tokens', 'channels')
  )
  return MlpMixer(
    num_classes=config['num_classes'],
    img_size=config['image_size'],
    patch_size=config['patch_size'],
    num_blocks=config['num_blocks'],
    embed_dim=config['hidden_dim'],
    mlp_ratio=ratio,
  )


def _vit(config: dict) -> torch.nn.Module:
  return VisionTransformer(
    num_classes=config['num_classes'],
    img_size=config['image_size'],
    patch_size=config['patch_size'],
    depth=config['num_blocks'],
    embed_dim=config['hidden_dim'],
    num_heads=config['num_heads'],
    mlp_ratio=config['mlp_dim'] / config['hidden_dim'],
  )


def _bit(config: dict) -> torch.nn.Module:
  return ResNetV2(
    [int(count) for count in config['stages'].split(',')],
    num_classes=config['num_classes'],
    width_factor=int(config['width']),
    stem_type='fixed',  # BiT's max-pool, in a frame of zeros
    conv_layer=functools.partial(StdConv2d, eps=1e-10),
  )


MODELS = {'mixer': _mixer, 'vit': _vit, 'resnet': _bit}
"""Family -> function of the config's fields."""


class Model:
  """The model with its steps; with `compile` through torch.compile."""

  def __init__(self, weights: str, config: dict, compile: bool):
    self.dtype, self.size = config['dtype'], config['image_size']
    self.classes = config['num_classes']
    model = make_model(weights, config)
    self.model = torch.compile(model) if compile else model
    self.parameters = list(model.parameters())
    kernels = [p for p in self.parameters if p.ndim > 1]
    others = [p for p in self.parameters if p.ndim <= 1]
    self.optimizer = torch.optim.AdamW(
      [{'params': kernels, 'weight_decay': 0.1}, {'params': others, 'weight_decay': 0.0}],
      lr=1e-3,
      fused=True,
    )

  def forward(self, images: torch.Tensor) -> torch.Tensor:
    """Map (B, H, W, 3) uint8 images to float32 logits."""
    pixels = images.permute(0, 3, 1, 2).float() / 127.5 - 1  # strides of channels_last
    with self._cast():
      return self.model(pixels).float()

  def _cast(self):
    if self.dtype == 'float32':
      return contextlib.nullcontext()
    return torch.autocast(DEVICE, torch.bfloat16)

  def prepare(self, what: str, batch: int) -> None:
    """Draw random images and labels, or for `multiply` two square matrices."""
    torch.manual_seed(0)
    if what == 'multiply':
      self.a, self.b = torch.randn(2, batch, batch).to(DEVICE, getattr(torch, self.dtype))
      return
    shape = (batch, self.size, self.size, 3)
    self.images = torch.randint(0, 256, shape, dtype=torch.uint8).to(DEVICE)
    self.labels = torch.randint(0, self.classes, (batch,)).to(DEVICE)

  def run(self, what: str, times: int) -> None:
    """Run steps, and wait for them."""
    for _ in range(times):
      if what == 'multiply':
        torch.matmul(self.a, self.b)
      elif what == 'forward':
        self.model.eval()
        with torch.inference_mode():
          self.forward(self.images)
      else:
        self.model.train()
        loss = torch.nn.functional.cross_entropy(self.forward(self.images), self.labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
    if DEVICE == 'cuda':
      torch.cuda.synchronize()


def main(weights: str, text: str) -> None:
  """Answer requests until the input ends."""
  config = json.loads(text)
  torch.backends.cuda.matmul.allow_tf32 = True  # as JAX does
  made: dict[bool, Model] = {}
  answer(torch=torch.__version__, timm=timm.__version__)
  for line in sys.stdin:
    asked = json.loads(line)
    is_compiled = asked['compile']
    try:
      if is_compiled not in made:
        made[is_compiled] = Model(weights, config, is_compiled)
      model = made[is_compiled]
      if asked['do'] == 'logits':
        model.model.eval()
        images = torch.from_numpy(np.load(asked['images'])).to(DEVICE)
        with torch.inference_mode():
          np.save(asked['logits'], model.forward(images).cpu().numpy())
      elif asked['do'] == 'prepare':
        model.prepare(asked['what'], asked['batch'])
        model.run(asked['what'], 1)
      else:
        model.run(asked['what'], asked['times'])
      answer()
    except torch.OutOfMemoryError as error:
      torch.cuda.empty_cache()
      answer(out_of_memory=str(error).splitlines()[0])


if __name__ == '__main__':
  main(*sys.argv[1:])
