#!/usr/bin/env bash
# Everything that wants a CUDA device, in one go: parity, then speed. Figures go to $OUT (default: gpu-check/).
# The 8B shape needs some 20 GB; random weights, nothing is downloaded. SIZE=1.7b for a smaller card.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python3}
out=${OUT:-gpu-check}
size=${SIZE:-8b}
mkdir -p "$out"

"$python" -m pytest -q -m gpu
bench=("$python" -m lightningrl bench decode --size "$size" --dtype bfloat16 --device cuda --block-size 32 --tpf 5.58
    --prompt-tokens 128 --new-tokens 512)
for batch in 1 16 64 256; do
    "${bench[@]}" --batch "$batch" --forwards spans --forwards segments --forwards graphs --out "$out/decode-$batch.json"
done
"$python" -m lightningrl bench train --size "$size" --dtype bfloat16 --device cuda --recompute --out "$out/train.json"
# A 0.1 B model: pre-training, four RL steps, seconds by phase and the gap between decoder and trainer at bfloat16.
stage() { "$python" -m lightningrl "$1" --config config/gpu-check.yaml "${@:2}"; }
stage data --name gsm-mini && stage selfcheck --name gsm-mini && stage tokenizer && stage pretrain && stage train
"$python" -m lightningrl bench phases results/gpu-check/train/timed-* --dtype bfloat16 --device cuda --out "$out/phases.json"
echo "figures: $out"
