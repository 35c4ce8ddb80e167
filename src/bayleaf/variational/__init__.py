"""Variational inference and its relatives: the best approximation of a simple form."""
