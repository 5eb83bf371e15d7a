"""The error for bad input, raised by every room."""


class InputError(ValueError):
    """Bad input from outside: the message names the file, what is wrong, and what to do.

    Example:
        >>> from sppnet.data import read_image
        >>> try:
        ...     read_image("nowhere.jpg")
        ... except InputError as error:
        ...     print(error)
        nowhere.jpg: cannot be read (No such file or directory); check the path
    """


class DamageError(InputError):
    """A file that this program made is missing, cut or altered; whatever made it can make it again.

    Example:
        >>> issubclass(DamageError, InputError)
        True
    """
