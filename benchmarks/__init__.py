"""What crossrank is measured with, beside others; ``python -m benchmarks``."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent  # the checkout
