"""A trained model on the Hugging Face hub."""
