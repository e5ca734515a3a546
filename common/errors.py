"""The one exception a user may see: bad input, said in one line."""


class InputError(ValueError):
    """Bad input. The message is one line: the file or key, the value, and the cure; entry points print it and exit 1."""
