"""Foreign clients, as they come, against the real service."""
