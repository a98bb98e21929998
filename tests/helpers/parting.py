"""Two processes that part again and again, each time with a DDP model that outlives their group: `python -m ... FOLDER TIMES`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from pns.training.common import part_ways


def part_often(folder: Path, times: int) -> None:
    rank = int(os.environ["RANK"])
    for i in range(times):
        dist.init_process_group("gloo", init_method=f"file://{folder / str(i)}", rank=rank, world_size=2)
        model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(64, 64))
        model(torch.randn(4, 64)).sum().backward()
        # A tensor of Python's that Gloo's thread lets go of when the work is done, which may be late.
        late = dist.all_reduce(torch.ones(2000), async_op=True)
        part_ways()
        del late, model


if __name__ == "__main__":
    part_often(Path(sys.argv[1]), int(sys.argv[2]))
