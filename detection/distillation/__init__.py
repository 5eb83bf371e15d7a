"""Distillation: a network is taught by other networks."""
