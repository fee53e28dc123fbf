"""Checksums: files judged whole, or behind a download that runs; the programs that judge; hashes of pieces."""
