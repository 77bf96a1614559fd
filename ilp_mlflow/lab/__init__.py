"""A controlled world in which it is known, for every sample, why it will not be learned."""
