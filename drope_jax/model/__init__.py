"""The transformer: functions of (config, params, tokens)."""
