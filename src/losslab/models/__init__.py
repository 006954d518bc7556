"""A causal language model from its checkpoint to the loss of a micro-batch."""
