"""The analyses of `drope analyse`: one module measures each, one draws it."""
