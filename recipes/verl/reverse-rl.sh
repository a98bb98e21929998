#!/usr/bin/env bash
# Reverse RL of the generator under verl. Needs an environment with verl, vLLM and pns (the core is enough).
#   PNS_POLICY=my/policy PNS_TRAIN=data/gsm8k/train.parquet PNS_REWARD=my/reward.yaml recipes/verl/reverse-rl.sh
# With the reward model behind verl's router: PNS_REWARD_MODEL=my/reward-model as well, and `+with=router`.
# Prompts first: pns export prompts gsm8k-train --to verl -o data/gsm8k
# On several nodes: `ray start` on each, then this on the first with trainer.nnodes=N.
set -euo pipefail
: "${PNS_POLICY:?the policy: a folder or a hub id}" "${PNS_TRAIN:?prompts as verl reads them}" "${PNS_REWARD:?a reward recipe}"
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
exec python3 -m verl.trainer.main_ppo --config-path "$here" --config-name reverse-rl "$@"
