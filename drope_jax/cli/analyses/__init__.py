"""What `drope analyse` runs: a module for each analysis."""
