"""Reference loops in plain NumPy, about 20 lines each, written for reading and not for speed.

Each is transcribed from its source without a look at the library's code, so that a law they share
is more than a bug they share.
"""
