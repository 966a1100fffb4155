"""The arguments of each command; imports nothing heavy, so help is fast."""
