"""What the commands do: sync, plan, status, verify; each gives a summary and raises nothing of one file."""
