"""The layouts of a graph, one file each: for any runtime, for onnxruntime's CPU provider, for its CUDA provider."""
