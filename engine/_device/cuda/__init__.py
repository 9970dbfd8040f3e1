"""Packed graphs on an NVIDIA GPU. `open` alone imports this, when such a device is asked for."""
