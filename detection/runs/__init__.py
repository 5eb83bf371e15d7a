"""Runs: the folder of a run, and its stages in order."""
