"""A sync, stage by stage: scan, prepare, download, install; the failure of one file does not raise."""
