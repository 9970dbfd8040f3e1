"""What this machine is: processor, threads, GPUs, onnxruntime."""
