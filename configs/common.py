"""Every field of an experiment, with its unit and its value where an experiment says nothing.

The `get_config(arg)` of an experiment is this with a few edits. On the command line
`--config.field=value` sets any field.
"""

import dataclasses
from typing import Any

from ml_collections import ConfigDict, FieldReference

from mixer_jax import models


def get_config() -> ConfigDict:
  """Return the paper's pre-training recipe (section 3, Table 4) for B/16, without a data set."""
  config = ConfigDict()

  config.seed = 0  # of initialisation, order of examples, augmentation and dropout
  config.total_steps = 94_000  # updates; 300 epochs of ImageNet at batch 4096
  config.total_epochs = 0.0  # passes over train_split, in place of total_steps; 0: these count
  config.batch_size = 4096  # images per update, over all devices of all processes
  config.eval_batch_size = 4096  # images, likewise, at most; 0: 32 per device
  config.accumulate = 1  # micro-batches per update; memory as for batch_size / accumulate
  config.loss = 'softmax'  # or 'sigmoid', the authors' ImageNet recipe with model.head_bias=-6.9
  config.mixup = 0.0  # mix each image with a neighbour, by a share from Beta(mixup, mixup); 0: no
  config.mixup_per = 'batch'  # one share per batch, as in the authors' code; or 'example'
  # Weights to start from, instead of random ones: a workdir, WORKDIR/STEP, a weights file, or
  # the name of a published file (`mixer-jax models` lists them). `model` then holds only the fields
  # that differ from the checkpoint.
  config.init_from = ''
  config.init_head = 'zero'  # a new head of zeros; or 'keep', if the classes are the same
  config.init_blocks = values()  # of a Mixer or ViT: blocks to keep, as in 0,1,3; empty: all

  config.log_every = 50  # steps between rows of metrics.jsonl
  config.eval_every = 1000  # steps between evaluations; 0: only at the end
  config.checkpoint_every = 1000  # steps between saved states; 0: only at the end
  config.keep_checkpoints = 3  # newest states kept
  # Also keep the state of the best evaluation, report the run by it, and let WORKDIR mean it in
  # other commands. Early stopping does so in any case.
  config.keep_best = False
  config.tensorboard = False  # also write events for TensorBoard, in WORKDIR/tensorboard

  config.early_stopping = ConfigDict()  # fields of mixer_jax.training.early_stopping
  config.early_stopping.metric = 'top1'  # or top5, loss, real, 5-shot, a figure of `evals`
  config.early_stopping.patience = 0  # evaluations without improvement; 0: never stop

  config.fewshot = ConfigDict()  # ridge regression on the features of a few images (section 4)
  config.fewshot.every = 0  # each n-th evaluation has it, and the final report; 0: none
  config.fewshot.name = 'imagenet2012'  # as data.name, of the same data_dir; '': data.name
  config.fewshot.train_split = ''  # of the few images; '': train[:65000] of ImageNet, else train
  config.fewshot.eval_split = 'validation'  # whose images are classified
  config.fewshot.shots = values(5)  # images per class, one figure each, as in 1,5,10,25
  config.fewshot.seeds = 3  # choices of them; a figure is the mean
  config.fewshot.l2 = 1024.0  # on the diagonal of XᵀX
  config.fewshot.constant = 100.0  # the value of the bias's feature
  config.fewshot.max_reads = 0  # most labels to read per choice; 0: all
  config.fewshot.recipe = 'resize-crop'  # as the authors; '': data.eval_recipe and its fraction
  config.fewshot.crop_fraction = 0.875  # of `recipe`: 224 of 256

  # Further evaluations, name -> fields: `kind` (classification, few_shot or probe), `every` (each
  # n-th evaluation, and the final report) and those of the kind, see mixer_jax/runs/evaluators.
  # In a config file: config.evals.blocks = ConfigDict({'kind': 'probe', 'every': 5}).
  config.evals = ConfigDict()

  config.model = ConfigDict()  # fields of mixer_jax.MixerConfig; see `use_family` for others
  config.model.family = 'mixer'  # or 'vit', 'resnet'
  config.model.patch_size = 16  # pixels; this and the next four are B/16's of Table 1
  config.model.num_blocks = 12  # each a token-mixing and a channel-mixing MLP
  config.model.hidden_dim = 768  # channels
  config.model.tokens_mlp_dim = 384  # width of the token-mixing MLP
  config.model.channels_mlp_dim = 3072  # width of the channel-mixing MLP
  config.model.image_size = 224  # pixels, a multiple of patch_size
  config.model.num_classes = 1000  # outputs of the head
  config.model.gelu = 'tanh'  # as in the published weights, or 'erf', the exact form
  config.model.input_range = '[-1, 1]'  # of pixels, or '[0, 1]'
  config.model.head_bias = 0.0  # the head's bias at the start
  config.model.dtype = 'bfloat16'  # of activations and matrix multiplies
  config.model.stochastic_depth = 0.0  # probability to skip the last block, linear in depth
  config.model.dropout = 0.0  # probability, after each GELU
  config.model.remat = False  # recompute blocks in the backward pass to save memory

  config.data = ConfigDict()  # fields of mixer_jax.data.data_config.DataConfig
  # TFDS name, 'digits', a task ('vtab/clevr_count'), or 'folder:DIR' with a folder per class, or
  # with train/, val/ and test/ that have these inside.
  config.data.name = ''
  config.data.data_dir = ''  # of TFDS; '': $TFDS_DATA_DIR or ~/tensorflow_datasets
  config.data.train_split = 'train'  # TFDS slicing, as in 'train[:99%]'; of a task: 'train800'
  # For evaluations during training, and early stopping: of data.name, or 'folder:DIR', another
  # folder whose classes are matched by name. A folder without it holds out a tenth of train.
  config.data.eval_split = 'test'
  config.data.test_split = ''  # for the final report, likewise; '': eval_split
  # Rules by which folder:DIR is read: 2; or 1, those of runs that were begun without this field.
  config.data.folder_rules = 2
  # Inception crop: 'tensorflow', as the authors' code draws and resizes it; or 'uniform-area', as
  # earlier versions of this package did. Or 'square', BiT's: the complete image is resized to a
  # square, of which a random part is taken.
  config.data.crop = 'tensorflow'
  config.data.crop_resize = 0  # pixels, the side of that square; 0 with the other crops
  # 'auto' decodes JPEGs of which the crop is at least twice as large as the model's images at 1/2,
  # 1/4 or 1/8 of their size: 1.7 times as fast for photographs of 12 megapixels, other levels.
  config.data.decode_scale = 'none'
  config.data.min_crop_area = 0.05  # share of the image's area, from …
  config.data.max_crop_area = 1.0  # … to
  config.data.min_crop_aspect = 0.75  # width over height, from …
  config.data.max_crop_aspect = 1.33  # … to; the authors' 1.33 is not 4 / 3
  config.data.flip = True  # mirror half of the training images
  config.data.randaugment_layers = 0  # operations per image, one after the other; 0: none
  config.data.randaugment_magnitude = 0.0  # of each; the paper's are 10, 15 and 20
  # Evaluation: resmall-crop (Table 3), resize-crop (Table 2), vit-jax, timm, timm-bilinear; or
  # 'checkpoint', the recipe of the checkpoint that is evaluated.
  config.data.eval_recipe = 'resmall-crop'
  config.data.eval_crop_fraction = 0.875  # central crop's share of a side: 224 of 256
  # Of every image that a model sees (section 3.4): 'patches' shuffles the patches and the pixels
  # in them, 'pixels' all pixels; or 'none'.
  config.data.permutation = 'none'
  config.data.permutation_patch = 16  # pixels, the side of those patches
  config.data.permutation_seed = 0  # of the permutation, the same for every image
  # Training images that do not decode: 'fatal' stops the run, 'skip' logs and replaces them.
  config.data.undecodable = 'fatal'
  # Files that were added, removed or renamed since the run began: 'refuse' to resume, or 'accept'.
  config.data.changed = 'refuse'
  # Larger images count as images that do not decode. Decoding takes 4 to 20 MB per megapixel.
  config.data.max_megapixels = 134  # 1 to 178
  # Worker processes that read and decode, and threads of each; 0 workers: threads of this process;
  # 0 threads, too: the thread of the loop, between steps. 'auto': by cores and size of the images.
  config.data.workers = auto()
  config.data.threads = auto()  # of each worker, or of this process
  config.data.prefetch = 512  # examples kept ready, at least

  config.optimizer = ConfigDict()  # fields of mixer_jax.training.optimizer.OptimizerConfig
  config.optimizer.name = 'adam'  # or 'sgd'
  config.optimizer.learning_rate = 1e-3  # peak
  config.optimizer.warmup_steps = 10_000  # steps of linear warm-up from 0
  # Then down: 'linear', 'cosine', or 'steps', as BiT; or 'constant'.
  config.optimizer.schedule = 'linear'
  # 'steps': the rate is divided by 10 after these shares of all steps, as in 0.3,0.6,0.9.
  config.optimizer.decay_at = values()
  config.optimizer.end_factor = 0.0  # last rate / peak; 1e-5 in the authors' linear schedule
  config.optimizer.weight_decay = 0.1  # kernels only, times what the next field says
  # 'learning_rate', as in the paper; 'schedule', the rate / its peak, as in the authors' code: its
  # 1e-4 is the paper's .1 at a rate of .001, and does not follow a changed rate.
  config.optimizer.weight_decay_times = 'learning_rate'
  config.optimizer.clip_norm = 1.0  # global norm of the gradient; 0: no clipping
  config.optimizer.b1 = 0.9  # Adam
  config.optimizer.b2 = 0.999  # Adam
  config.optimizer.eps = 1e-8  # Adam
  config.optimizer.momentum = 0.9  # SGD
  # Of SGD's momentum and Adam's first moment; 'bfloat16' in the authors' fine-tuning code (SGD) and
  # in AugReg's pre-training (Adam).
  config.optimizer.momentum_dtype = 'float32'
  # Sharpness-aware minimisation: the gradient at the parameters plus this many units of norm in the
  # direction of the gradient, over the global batch. A step takes two gradients. 0: off.
  config.optimizer.sam_rho = 0.0
  config.optimizer.sam_rho_end = 0.0  # GSAM: radius at the last rate, following it; 0: sam_rho
  config.optimizer.sam_alpha = 0.0  # GSAM: share of the orthogonal gradient to subtract; 0: SAM

  config.processes = ConfigDict()  # fields of mixer_jax.parallel.processes.ProcessesConfig
  config.processes.distributed = 'auto'  # join other processes if there are TPUs; 'on', 'off'
  config.processes.start_seconds = 0  # for all processes to connect; 0: by their number
  config.processes.heartbeat_seconds = 100  # without a heartbeat a process counts as dead
  config.processes.shutdown_seconds = 60  # that a process waits at its end for the others

  config.mesh = ConfigDict()  # devices per axis; -1: the rest
  config.mesh.data = -1  # split the batch
  config.mesh.fsdp = 1  # split the batch, the parameters and the optimizer's moments
  config.mesh.model = 1  # split the hidden width of the MLPs, and heads of attention
  return config


def values(*items: float | str) -> FieldReference:
  """Return a list that config files may replace by a tuple or by a string such as '1,5'."""
  return FieldReference(items, field_type=object)


def auto() -> FieldReference:
  """Return 'auto', which config files may replace by a number."""
  return FieldReference('auto', field_type=object)


def use_family(config: ConfigDict, name: str) -> None:
  """Put a model of another family in place of the one that is there.

  Fields that both have keep their values; the others are the defaults of its config, such as
  those of BiT's ResNet50x1 for 'resnet'. A field without a default is left to the caller.
  """
  fields = dataclasses.fields(models.config_type({'family': name}))
  model = ConfigDict({f: v for f, v in config.model.items() if f in {x.name for x in fields}})
  model.family = name
  for field in fields:
    if field.name not in model and field.default is not dataclasses.MISSING:
      model[field.name] = field.default
  config.model = model


def use_variant(config: ConfigDict, variant: Any) -> None:
  """Put the architecture of a named model, of any family, in place of the one that is there."""
  use_family(config, variant.family)
  config.model.update(models.architecture(variant))


def resnet(config: ConfigDict) -> None:
  """Put BiT's ResNet50x1 in place of the Mixer, for the same images and classes."""
  use_family(config, 'resnet')


def finetune(config: ConfigDict) -> ConfigDict:
  """Replaces the pre-training recipe by the paper's fine-tuning (section 3, Appendix C)."""
  config.optimizer.name = 'sgd'
  config.optimizer.schedule = 'cosine'
  config.optimizer.weight_decay = 0.0
  config.optimizer.warmup_steps = 500
  config.optimizer.learning_rate = 0.01  # the paper tries .003, .01, .03, .06
  config.batch_size = 512
  return config


def keep_architecture(config: ConfigDict) -> None:
  """Remove the fields of the model that the checkpoint of `init_from` decides."""
  for name in models.fields_of_weights(config.model):
    del config.model[name]
