"""Surgeries: pure functions `(config, params) -> (config, params)`."""
