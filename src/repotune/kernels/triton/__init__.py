"""Triton kernels: each beside a plain version in the folder above, which is its reference."""
