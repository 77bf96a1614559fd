"""What the base model knows and believes of what a sample asks, and how sure it is of it."""
