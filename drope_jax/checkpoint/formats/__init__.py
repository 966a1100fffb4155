"""Other projects' checkpoints: one file a format, one table a family."""
