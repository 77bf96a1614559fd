"""The lab on a pretrained base: what it knows is measured, and causes are planted around that."""
