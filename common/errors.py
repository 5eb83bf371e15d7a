"""The error that every room raises for bad input from outside."""


class InputError(ValueError):
    """Bad input from outside: the message names the file, what is wrong, and what to do."""
