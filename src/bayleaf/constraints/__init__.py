r"""Smooth bijections from unconstrained reals to where a parameter lives.

Samplers move on $u \in R^n$; a parameter is $x = c(u)$. The density of $u$ is that of $x$ times
$|\det dx/du|$, whose logarithm is `log_jacobian`. Where x has more numbers than degrees of freedom,
dx runs over free coordinates, named in each class; a density with respect to them is what one finds
in books (Dirichlet: the first K-1 entries; LKJ: the strictly lower triangle).

    constrain(u) -> x    unconstrain(x) -> u    log_jacobian(u) -> scalar
    unconstrained_shape(shape of x) -> shape of u    check(x, name): raises, naming what is violated

All but `check` can be traced, batched and differentiated. Leading axes are batches of independent
values. Values stay finite and inside the open set for every finite float32 ``u``: where rounding
would put x on the boundary (a sigmoid that is exactly 1) it is moved to the next number inside,
so that a density with ``log(1 - x)`` is large there and not NaN.

References: Stan Reference Manual, "Constraint transforms"; Egozcue et al. 2003 (simplex);
Lewandowski, Kurowicka & Joe 2009, section 2 (correlation).
"""

from __future__ import annotations

from bayleaf.constraints.base import Constraint
from bayleaf.constraints.correlation import Correlation, CorrelationCholesky
from bayleaf.constraints.elementwise import (
    GreaterThan,
    Interval,
    LessThan,
    Positive,
    Real,
    UnitInterval,
)
from bayleaf.constraints.tree import Constraints
from bayleaf.constraints.vectors import Ordered, PositiveOrdered, Simplex

real = Real()
positive = Positive()
greater_than = GreaterThan
less_than = LessThan
interval = Interval
unit_interval = UnitInterval()
simplex = Simplex()
ordered = Ordered()
positive_ordered = PositiveOrdered()
correlation = Correlation()
correlation_cholesky = CorrelationCholesky()

__all__ = [
    "Constraint",
    "Constraints",
    "correlation",
    "correlation_cholesky",
    "greater_than",
    "interval",
    "less_than",
    "ordered",
    "positive",
    "positive_ordered",
    "real",
    "simplex",
    "unit_interval",
]
