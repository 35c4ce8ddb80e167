"""Settings of every test: float64, no silent broadcasting, shapes checked as annotated.

The import hook must be installed before any module of bayleaf is imported, so it stands first.
"""

from __future__ import annotations

import jax
from jaxtyping import install_import_hook

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")

install_import_hook("bayleaf", "beartype.beartype")
