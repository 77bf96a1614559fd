"""Texts and tokens that training had otherwise than the rows, or than they are asked."""
