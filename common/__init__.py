"""Files, errors, arrays, settings, checkpoints, locks, memory and processes: shared by every room."""
