"""``python -m sppnet`` is the command ``sppnet``."""

from sppnet.cli.app import main

main()
