"""Imported once by the server that stage workers are forked from: the libraries that take seconds to import."""

import datasets
import pyarrow.parquet
import torch
import transformers
import trl
from trl import DPOTrainer, GRPOTrainer, RewardTrainer, SFTTrainer

import pns.stages.align
import pns.stages.data
import pns.stages.evaluate
import pns.stages.models
import pns.stages.negatives
import pns.stages.policy
import pns.stages.summary

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
