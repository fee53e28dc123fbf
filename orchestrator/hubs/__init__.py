"""What is not pinned yet, made into pinned files: hub repositories are resolved here."""
