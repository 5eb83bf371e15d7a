"""Distillation: a network learns to reproduce the feature maps of other networks."""
