"""Other tools: their lists as models, manifests in their forms, and a mirror for machines without a network."""
