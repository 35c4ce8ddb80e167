"""What JAX compiles, counted: the second call of anything must compile nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax


@contextlib.contextmanager
def compilations() -> Iterator[list[str]]:
    """The names of what the backend compiles inside the block."""
    names: list[str] = []

    def listen(event: str, duration: float, **details: str | int) -> None:
        if "backend_compile" in event:
            names.append(str(details.get("fun_name", event)))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield names
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
