"""The `drope` command; the only package that joins the others."""
