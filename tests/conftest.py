"""Shared test set-up: one thread, no CUDA surprises."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
