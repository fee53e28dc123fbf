"""What belongs in version control: the tiers, and the blocks that keep them."""
