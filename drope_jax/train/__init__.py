"""Training: recipes, the pure step, and the loop around it."""
