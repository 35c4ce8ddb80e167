"""Exact draws from log-concave densities of one variable; what adaptive rejection is made of."""
