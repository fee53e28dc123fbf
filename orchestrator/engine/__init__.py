"""A sync, stage by stage: what stands, what is missing, the work, its end; nothing of one file is raised."""
