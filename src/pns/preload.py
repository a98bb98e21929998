"""Imported once by the server that stage workers are forked from: the libraries that take seconds to import."""

import threading

import datasets
import pyarrow.parquet
import torch
import tqdm
import transformers
import trl
from trl import DPOTrainer, GRPOTrainer, RewardTrainer, SFTTrainer

import pns.stages.align
import pns.stages.data
import pns.stages.evaluate
import pns.stages.models
import pns.stages.negatives
import pns.stages.policy
import pns.stages.prompted
import pns.stages.samples
import pns.stages.summary
import pns.stages.uses

# By default tqdm makes a semaphore to share bars between processes; one of a killed worker would be reported as leaked.
tqdm.tqdm.set_lock(threading.RLock())

__all__ = [
    "DPOTrainer",
    "GRPOTrainer",
    "RewardTrainer",
    "SFTTrainer",
    "datasets",
    "pns",
    "pyarrow",
    "torch",
    "transformers",
    "trl",
]
