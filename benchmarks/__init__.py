"""Benchmarks: ``python -m benchmarks.<name>`` in the project folder."""
