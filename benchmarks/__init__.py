"""Benchmarks; run one with ``python -m benchmarks.<name>`` in the project folder."""
