"""From a target and a kernel to draws: the runner, its checkpoints, and what comes out."""
