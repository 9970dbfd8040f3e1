"""An int8 graph on crossrank-kernels, a compiled library that runs its weights: loaded where it is installed."""
