"""What can be said of rows and a model before anything is trained, one kind of fault per file."""
