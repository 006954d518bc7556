"""Tables, figures and claims, from records alone."""
