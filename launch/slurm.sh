#!/usr/bin/env bash
# One torchrun agent per node, one rank per GPU. The checkout, its .venv and RUN_DIR lie on storage that all nodes see.
#   sbatch --nodes 4 launch/slurm.sh launch/recipes/movielens.py:din runs/din [KEY=VALUE ...]
#SBATCH --job-name=ctr-rec
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
# Five minutes before the end every rank gets SIGTERM: they agree on a step, save and stop.
#SBATCH --signal=TERM@300
#SBATCH --output=ctr-rec-%j.log
set -euo pipefail

recipe=${1:?usage: sbatch launch/slurm.sh RECIPE.py:FUNCTION RUN_DIR [KEY=VALUE ...]}
run_dir=${2:?usage: sbatch launch/slurm.sh RECIPE.py:FUNCTION RUN_DIR [KEY=VALUE ...]}
shift 2

words=(train "$recipe" --run-dir "$run_dir")
for setting in "$@"; do words+=(--set "$setting"); done
# A requeued job finds its own run and goes on from the last checkpoint.
[[ -f "$run_dir/config.json" ]] && words+=(--resume)

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# torchrun kills its ranks this many seconds after the signal; its own default is 30.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=270
export OMP_NUM_THREADS=$((SLURM_CPUS_PER_TASK / SLURM_GPUS_ON_NODE))

srun --kill-on-bad-exit=1 .venv/bin/python -m torch.distributed.run \
  --nnodes "$SLURM_JOB_NUM_NODES" \
  --nproc-per-node "$SLURM_GPUS_ON_NODE" \
  --rdzv-id "$SLURM_JOB_ID" \
  --rdzv-backend c10d \
  --rdzv-endpoint "$head:29500" \
  -m ctr_rec "${words[@]}"
