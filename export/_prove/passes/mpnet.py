"""MPNet's forward pass: RoBERTa with a bias by distance."""

import math

import numpy as np

from .activations import Floats
from .bert import Roberta


class MPNet(Roberta):
    name = "mpnet"
    parts = (
        *("attention.attn.q", "attention.attn.k", "attention.attn.v", "attention.attn.o", "attention.LayerNorm"),
        *("intermediate.dense", "output.dense", "output.LayerNorm"),
    )
    token_types = False

    def bias(self, length: int) -> Floats:
        """By the formula of its relative_position_bucket; float32 [heads, length, length]."""
        positions = np.arange(length)
        n = positions[:, None] - positions  # query minus key
        distance = np.abs(n)
        far = 8 + np.log(np.maximum(distance, 8) / np.float32(8)) / math.log(128 / 8) * 8
        bucket = np.where(distance < 8, distance, np.minimum(far.astype(np.int64), 15)) + 16 * (n < 0)
        bias: Floats = self.tensor("encoder.relative_attention_bias.weight")[bucket].transpose(2, 0, 1)
        return bias


PASSES = {"mpnet": MPNet}
