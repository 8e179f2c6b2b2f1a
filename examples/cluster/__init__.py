"""Kernels on the workers of a Dask cluster: ``python -m examples.cluster``."""
