"""Pictures of a run: traces with ranks, and pairs. Matplotlib is imported when they are drawn."""
