"""A checkpoint as a language model: scoring and generation."""
