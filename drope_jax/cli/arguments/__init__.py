"""What each command takes: light to import, as `--help` shows them."""
