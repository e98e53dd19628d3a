#!/bin/bash

# Parameters
#SBATCH --account=vision
#SBATCH --constraint=a100
#SBATCH --cpus-per-task=10
#SBATCH --dependency=afterok:12:13
#SBATCH --exclude=bad1,bad2
#SBATCH --gpus-per-node=8
#SBATCH --job-name=train-0b31fb120994-mochi-4c3f5c
#SBATCH --kill-on-invalid-dep=yes
#SBATCH --mail-type=FAIL
#SBATCH --mail-user=a@b.org
#SBATCH --mem=491520MB
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --open-mode=append
#SBATCH --output=/data/runs/c/stages/train-0b31fb120994/slurm/%j_0_log.out
#SBATCH --partition=gpu
#SBATCH --qos=long
#SBATCH --requeue
#SBATCH --reservation=mine
#SBATCH --signal=USR2@90
#SBATCH --time=1440
#SBATCH --wckey=submitit

# setup
set -e
export OMP_NUM_THREADS=10
module load cuda
source ~/env.sh
export PYTHONPATH=/data/runs/c/code/CODE
export PYTHONSAFEPATH=1
export PYTHONDONTWRITEBYTECODE=1
export PYTHONUNBUFFERED=1
export MOCHI_COMMIT=''
folders=(/data/runs/c/stages/train-0b31fb120994)
folder=${folders[${SLURM_ARRAY_TASK_ID:-0}]}
trap : TERM USR2
unset SLURM_CLUSTERS
set +e

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output /data/runs/c/stages/train-0b31fb120994/slurm/%j_%t_log.out --kill-on-bad-exit=1 --cpus-per-task=10 PYTHON -m tools.chain.slurm.job /data/runs/c/stages/train-0b31fb120994


# teardown
rc=$?
attempts=$(ls "$folder/attempts" 2>/dev/null | wc -l)
limit=$((5 + 2 * attempts))
if [ "$rc" -ne 0 ] && [ "$rc" -ne 78 ] && [ ! -e "$folder/DONE.json" ] && [ ! -e "$folder/FAILED.json" ] \
  && [ ! -e "$folder/STOP" ] && [ "${SLURM_RESTART_COUNT:-0}" -lt "$limit" ]; then
  (
    trap '' TERM USR2
    for try in 1 2 3 4 5 6 7 8 9 10; do
      answer=$(scontrol requeue "$SLURM_JOB_ID" 2>&1) && break
      case "$answer" in *"pending execution"*) break ;; esac
      sleep 2
    done
    hosts=$(cat "$folder/slurm/bad_hosts" 2>/dev/null) \
      && scontrol update JobId="$SLURM_JOB_ID" ExcNodeList="$hosts"
  )
fi
exit "$rc"
