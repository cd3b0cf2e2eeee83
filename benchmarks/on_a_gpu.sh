#!/usr/bin/env bash
# Everything that needs a GPU, in ten minutes of a large one: bash benchmarks/on_a_gpu.sh FOLDER
# Each part ends by itself, so that one that hangs or fails loses only itself.
set -u
out=${1:?usage: bash benchmarks/on_a_gpu.sh FOLDER}
python=${PYTHON:-python3}
export PYTHONUNBUFFERED=1 MLFLOW_TRACKING_URI="sqlite:///$out/study.db"

part() { # NAME SECONDS COMMAND...
  local name=$1 seconds=$2
  shift 2
  timeout --signal=INT --kill-after=10 "$seconds" "$@" >"$out/$name.log" 2>&1
  echo "$name: exit $? (log: $out/$name.log)"
}

nvidia-smi --query-gpu=name,driver_version,power.limit --format=csv,noheader
# what runs only where there is a GPU; tests/conftest.py needs more than a bare machine has
part tests 60 "$python" -m pytest -q --noconftest --override-ini addopts= tests/test_gpu_sampling.py
part doctor 30 "$python" -m mlflow_carbon doctor --probe 5 --format json
# the paper's sizes and steps; kept by benchmarks/study_database.py
part study 440 "$python" -m ldm_project study --preset paper --steps 50,200,1000 --windows 2 \
  --warmup-windows 1 --iterations-per-window 15 --num-processes 1
part steps 90 "$python" -m benchmarks.gpu_steps "$out/steps.jsonl"
part peaks 90 "$python" -m benchmarks.gpu_peaks "$out/peaks.jsonl"
