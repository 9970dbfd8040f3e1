"""This machine: processor, threads, GPUs, onnxruntime."""
