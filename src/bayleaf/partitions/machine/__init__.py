"""The same algorithms in machine code, by numba (extra ``fast``), for the CPU."""
