"""One stage of supervised fine-tuning with TRL, and what it did with every sample."""
