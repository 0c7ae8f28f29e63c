"""One module a command: `add_parser` says what it takes, `run` does it and returns the exit code.

`cli` imports only the command that is asked for, so that none pays for the libraries of another.
"""
