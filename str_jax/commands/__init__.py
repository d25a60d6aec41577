"""The commands of ``python -m str_jax``, one file a command."""
