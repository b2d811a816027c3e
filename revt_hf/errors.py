"""The one error a user's input can cause, and the one warning."""


class UserError(Exception):
    """Bad input, described in one sentence: the file, key or value, and what to do about it.

    The command line prints the sentence and exits with code 2; library users catch it.
    """

    def __init__(self, message: str) -> None:
        # A DataLoader re-raises a worker's error with the worker's traceback as its message.
        if "Original Traceback" in message:
            message = message.rsplit("UserError: ", 1)[-1].strip()
        super().__init__(message)


class DataWarning(UserWarning):
    """Data that can be used, but are not what the data set officially is."""
