"""The layouts of machine-learning frameworks: at which paths each one looks for a model's files."""
