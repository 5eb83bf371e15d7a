"""A run: its folder, and the order of its stages."""
