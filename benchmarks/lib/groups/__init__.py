"""Real grouped data, the methods that ebmeta is compared with, and scores."""
