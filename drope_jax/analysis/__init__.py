"""What dropping positions does to a model, in numbers, plots and one page."""
