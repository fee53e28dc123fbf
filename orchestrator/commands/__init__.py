"""What each command but sync does: manifests are read, compared, written, served and reported on, the store is kept."""
