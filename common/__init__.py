"""What any room may use: files, errors, arrays, settings, checkpoints, locks, memory, processes."""
