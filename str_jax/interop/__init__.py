"""Weights to and from other libraries, as files and arrays hold them."""

from str_jax.interop import torch

__all__ = ['torch']
