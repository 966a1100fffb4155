"""Runs a recipe on Cloud TPU slices, from an empty project to the last step.

`python -m launch` runs Google's own programs, gcloud and kubectl. It imports no
jax, so it needs no accelerator.
"""
