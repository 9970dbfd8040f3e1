"""ONNX graphs, written from configuration and weights."""
