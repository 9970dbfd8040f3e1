"""Portable graphs on TensorRT. `open` alone imports this, when such a device is asked for."""
