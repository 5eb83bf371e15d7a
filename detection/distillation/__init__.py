"""Networks that are taught by other networks."""
