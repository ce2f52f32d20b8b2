"""Adapt one framework's objects to the model, and back."""
