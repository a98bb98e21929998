"""Engines and trainers that this package is used with and does not install: what their newest releases ask for.

Copied from the packages' own metadata on PyPI on the day below; an installed one is judged by its own metadata instead
(`pns.doctor.packages.conflicts`). docs/install.md says what to do about it.
"""

from __future__ import annotations

READ_ON = "25 November 2026"

NEWEST: dict[str, tuple[str, tuple[str, ...]]] = {
    "vllm": ("0.33.0", ("torch==2.14.0", "transformers<5.21.0,>=5.16.1", "fastapi<0.137.0,>=0.133.0")),
    "verl": ("0.9.1", ("transformers!=5.6.0,<5.11,>=5.5.3", "ray>=2.41.0", "numpy>=2.0.0")),
    "openrlhf": ("0.11.2", ("transformers==5.15.0", "ray==2.55.0", "deepspeed==0.19.6", "flash-attn==2.8.3")),
    "llamafactory": (
        "0.9.5",
        (
            "transformers!=4.52.0,!=4.57.0,<=5.6.0,>=4.55.0",
            "trl<=0.24.0,>=0.18.0",
            "peft<=0.18.1,>=0.18.0",
            "datasets<=4.0.0,>=2.16.0",
            "accelerate<=1.11.0,>=1.3.0",
        ),
    ),
    "axolotl": (
        "0.21.0",
        ("transformers==5.20.1", "trl==1.14.1", "peft==0.21.2", "datasets==5.0.1", "accelerate==1.15.0"),
    ),
    "sglang": ("0.5.23", ("torch==2.14.1", "transformers==5.19.0")),
}
"""name -> newest release, and of its requirements those that have kept it from an environment with ours."""
