"""Where each framework looks for its files."""
