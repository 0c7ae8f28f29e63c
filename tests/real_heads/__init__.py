"""Heads that others trained, and the libraries that they trained them with."""
