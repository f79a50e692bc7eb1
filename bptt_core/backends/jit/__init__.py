"""The fold in compiled code, for CPUs: needs Numba."""
