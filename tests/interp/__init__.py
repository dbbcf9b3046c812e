"""Triton kernels in the interpreter, against their twins."""
