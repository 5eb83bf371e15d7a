"""Runs the command ``sppnet`` as ``python -m sppnet``."""

from sppnet.cli.app import main

main()
