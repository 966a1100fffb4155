"""The `drope` command: the one place that joins the packages."""
