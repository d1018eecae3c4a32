#!/usr/bin/env bash
# Demonstration on a laptop's CPU: pre-train a small Mixer on handwritten digits at 16 px, fine-tune
# it at 32 px, evaluate both on the complete test split, predict one image. The last line is JSON.
# Usage: launch/demo.sh [FOLDER]   runs in FOLDER (build/demo) are replaced
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-build/demo}
python=${PYTHON:-.venv/bin/python}
started=$(date +%s)

rm -rf "$out/pretrain" "$out/finetune"
mkdir -p "$out"
mixer() { "$python" -m mixer_jax "$@"; }
data=--config.data.data_dir="$out/data"

mixer train --config=configs/digits.py --workdir="$out/pretrain" "$data"
mixer train --config=configs/digits_finetune.py --workdir="$out/finetune" "$data" \
  --config.init_from="$out/pretrain"
for run in pretrain finetune; do
  mixer evaluate --checkpoint="$out/$run" --json="$out/$run.json"
done

"$python" - "$out" <<'PY'
import pathlib, sys
from mixer_jax.data.catalog import open_source
out = pathlib.Path(sys.argv[1])
(out / 'digit.png').write_bytes(open_source('digits', 'test', str(out / 'data'))[0]['image'])
PY
mixer predict --checkpoint="$out/finetune" "$out/digit.png"

"$python" - "$out" $(($(date +%s) - started)) <<'PY'
import json, pathlib, sys
out, seconds = pathlib.Path(sys.argv[1]), int(sys.argv[2])
top1 = {run: json.loads((out / f'{run}.json').read_text())['top1'] for run in ('pretrain', 'finetune')}
pictures = [str(out / run / name) for run in top1 for name in ('curves.png', 'predictions.png')]
print('pictures:', *pictures)
print(json.dumps({**{f'{run}_top1': round(value, 2) for run, value in top1.items()}, 'seconds': seconds}))
PY
