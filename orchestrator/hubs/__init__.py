"""Hubs and publishers' lists: resolve what a manifest leaves open into files with digests, for the lock file."""
