"""The forward passes in numpy of the architectures that the native exporter knows, after transformers' modelling code.

One file a family. They share nothing with the families and graphs of the exporter but reading tensors from files: names
and structure are written here once more.
"""
