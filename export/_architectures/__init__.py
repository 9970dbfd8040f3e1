"""The architectures that the native exporter knows, one file a family, and a checkpoint of any of them in one form."""
