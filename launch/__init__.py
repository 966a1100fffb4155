"""A recipe on a Cloud TPU slice, from the empty project to the last step.

`python -m launch` drives Google Cloud by its own programs, gcloud and kubectl.
It imports no jax: it runs where there is no accelerator.
"""
