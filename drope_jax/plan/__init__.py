"""What a recipe needs of a TPU slice, from the TPU's own compiler."""
