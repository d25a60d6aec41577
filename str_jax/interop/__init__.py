"""Weights to and from other libraries, as files and arrays hold them."""

from str_jax.interop import c_header, dense_file, files, sparse_file, torch

__all__ = ['c_header', 'dense_file', 'files', 'sparse_file', 'torch']
