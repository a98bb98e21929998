"""Imports the modules named on the command line and says for each how that went; run as a script, in a process of its own.

It imports nothing of this package, so that a library that ends the process, or hangs, ends this one. Each line that is
meant for the caller is a JSON object: `{"pns_probe": name, "error": null, or what was raised}`; after torch with `gpus` and
`cuda` (the CUDA release it was built for, or null).
"""

import importlib
import json
import sys
from typing import Any


def gpus(torch: Any) -> dict[str, Any]:
    """The GPUs that torch sees: name, memory and free memory in bytes."""
    found: list[dict[str, Any]] = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        found.append({"name": torch.cuda.get_device_name(index), "memory": total, "free": free})
    return {"gpus": found, "cuda": torch.version.cuda}


def main(names: list[str]) -> None:
    """Import each and say how that went."""
    for name in names:
        error, more = None, {}
        try:
            module = importlib.import_module(name)
            more = gpus(module) if name == "torch" else {}
        except BaseException as raised:  # a library may do anything when it is imported, `sys.exit` included
            error = f"{type(raised).__name__}: {raised}"
        _say(pns_probe=name, error=error, **more)


def _say(**row: Any) -> None:
    sys.stdout.write("\n" + json.dumps(row) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
