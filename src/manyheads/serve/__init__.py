"""The HTTP service: every head of one or more runs, what they are asked at the same time in one pass of the encoder."""
