"""The sections of reports; `summary` puts those of a run in order."""
