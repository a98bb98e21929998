#!/usr/bin/env bash
# Does pns - rejection rise with size? From-scratch models of about 1M and 10M parameters (of 100M: not run yet) on harder instances of the embedded
# families, three seeds of each, side by side on one GPU, for so many seconds: a round of pns, of rejection and of the
# chosen sides of both alone for each seed. Nothing is tuned: step sizes are scaled from what the embedded study chose.
#
#   studies/sizes.sh 420 [KEY=VALUE ...]          # small result files go to OUT (default: results/sizes)
#   SIZES=10m SEEDS=1,2 studies/sizes.sh 420
#   SIZES=0.4m studies/sizes.sh 7200 runtime.device=cpu runtime.jobs=2 rollouts.batch_size=256 negatives.sample.batch_size=256 \
#       evaluate.batch_size=256                # about the embedded model's size, on two CPU cores
#
# The machine may have no network (see with_wheels.sh) and may be taken away: what is done by then is in OUT as well.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
seconds=${1:?how long it may run}
shift
out=${OUT:-results/sizes}
runs=${RUNS:-runs}
mkdir -p "$out" "$runs"
splits="sft=24000 rlvr=2048 reward=1500 audit=300 generator=1536 pairs=4000 dev=300"

# of NAME HIDDEN LAYERS FEED_FORWARD SFT_RATE RL_RATE ALIGN_RATE [KEY=VALUE ...]
of() {
    local name=$1 code=0
    local keys=(model.hidden="$2" model.layers="$3" model.feed_forward="$4" sft.learning_rate="$5" rlvr.learning_rate="$6"
        generator.learning_rate="$6" reward_model.learning_rate="$6" align.learning_rate="$7" align.batch_size=32
        sft.steps=800 sft.batch_size=96 rlvr.steps=32 reward_model.steps=150 generator.steps=24 pairs.n=2500
        rollouts.batch_size=2048 negatives.sample.batch_size=2048 evaluate.batch_size=2048 runtime.jobs=12 runtime.threads=1)
    for split in $splits; do keys+=("problems.splits.$split"); done
    # INT ends it in good order.
    timeout --signal=INT --kill-after=20 "$seconds" bash studies/with_wheels.sh python3 -m pns iterate recipes/harder.yaml \
        "${keys[@]}" "${@:8}" --rounds 1 --seeds "${SEEDS:-1,2,3}" --method pns --method rejection --method sft_chosen --method sft_pns \
        --run-dir "$runs/sizes-$name" >"$out/$name.log" 2>&1 || code=$?
    [ "$code" -eq 0 ] || echo "$name: ended with $code"
    for file in results.json index.html; do
        [ ! -f "$runs/sizes-$name/report/$file" ] || cp "$runs/sizes-$name/report/$file" "$out/$name.$file"
    done
    (cd "$runs/sizes-$name/stages" && for file in */stage.json; do
        printf '%s ' "${file%/stage.json}" && tr -d '\n' <"$file" && echo
    done) >"$out/$name.stages.txt" || true
    # What the benchmarks were answered, for a report where there was no time for one.
    (cd "$runs/sizes-$name/stages" && tar czf - ./*-test-*[0-9a-f] ./*/summary.json) >"$out/$name.tests.tar.gz" || true
    tail -n 5 "$out/$name.log"
    return "$code"
}

[ ! -d .whl ] || bash studies/with_wheels.sh true
begun=()
for size in ${SIZES:-1m 10m}; do
    case $size in
        0.4m) of 0.4m 96 3 256 4e-3 4e-4 3e-4 "$@" & ;;
        1m) of 1m 144 4 384 3e-3 3e-4 2e-4 "$@" & ;;
        10m) of 10m 352 7 960 1e-3 1.5e-4 1e-4 "$@" & ;;
        100m) of 100m 896 10 2432 4e-4 5e-5 5e-5 model.heads=14 "$@" & ;;  # not run yet
        *) echo "no size $size: there are 0.4m, 1m, 10m and 100m" >&2 && exit 2 ;;
    esac
    begun+=($!)
done
status=0
for one in "${begun[@]}"; do wait "$one" || status=$?; done
exit "$status"
