"""What became of every row in training: its tokens, which were in the loss, and when."""
