"""The one exception a user may see: bad input, said in one line."""


class InputError(ValueError):
    """Bad input. The message is one line: the file or key, the value, and the cure; entry points print it and exit 1."""


STOPPED = 75  # exit status (EX_TEMPFAIL): saved and stopped, or others of the run are gone; the same command goes on
