"""Where verified files go: a place made from its blob, in one atomic rename."""
