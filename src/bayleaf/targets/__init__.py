"""What is inferred: a log density on any pytree, with its constraints, data and starting point."""

from bayleaf.targets.target import Target

__all__ = ["Target"]
