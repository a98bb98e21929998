#!/usr/bin/env bash
# A study on one GPU for so many seconds, on a machine that may have no network and may be taken away: what is done is kept in
# runs/, the same command goes on. Small result files are left in OUT (default: results/<study>).
#
#   studies/one_gpu.sh studies/size-1m.yaml 540
#
# Packages that the machine lacks travel as wheels, see with_wheels.sh. Not run yet.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
study=${1:?the study, such as studies/size-1m.yaml}
seconds=${2:?how long it may run}
name=$(basename "$study" .yaml)
out=${OUT:-results/$name}
mkdir -p "$out"
nvidia-smi --query-gpu=name,memory.total --format=csv,noheader | tee "$out/machine.txt"
status=0
# INT ends a study in good order: shards and checkpoints are durable, and it says how to go on.
timeout --signal=INT --kill-after=30 "$seconds" bash studies/with_wheels.sh python3 -m pns study "$study" --study-dir "runs/$name" 2>&1 | tee "$out/log.txt" || status=$?
bash studies/with_wheels.sh python3 -m pns study "$study" --study-dir "runs/$name" --report >>"$out/log.txt" 2>&1 || true
for file in results.json index.html; do
    [ ! -f "runs/$name/report/$file" ] || cp "runs/$name/report/$file" "$out/"
done
[ ! -f "runs/$name/protocol.json" ] || cp "runs/$name/protocol.json" "$out/"
exit "$status"
