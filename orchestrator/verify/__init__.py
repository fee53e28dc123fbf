"""Checksums: check files that are complete or still growing, by external programs; hash them, whole and in pieces."""
