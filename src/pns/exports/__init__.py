"""Pairs, negatives and prompts as data sets that other trainers load as they are."""
