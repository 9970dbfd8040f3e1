"""Benchmarks of crossrank beside other engines; ``python -m benchmarks``."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent  # the checkout
