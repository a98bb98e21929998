#!/usr/bin/env bash
# Runs a command with this checkout and the wheels of the folder .whl on PYTHONPATH, on a machine that may have no network.
#
#   pip download --no-deps --only-binary=:all: -d .whl trl datasets math-verify ...     # `pns doctor` names what is missing
#   bash studies/with_wheels.sh python3 -m pns doctor
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
site=$root/.site/site-packages  # dill, by which datasets names its caches, tells by this name what is installed
if compgen -G "$root/.whl/*.whl" >/dev/null && [ ! -d "$site" ]; then
    python3 -m pip install --quiet --no-index --no-deps --no-compile --target "$site" "$root"/.whl/*.whl
fi
export PYTHONPATH="$root/src:$site${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
exec "$@"
