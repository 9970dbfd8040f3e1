"""What crossrank measures itself and its peers with; not installed, run as ``python -m benchmarks``."""
