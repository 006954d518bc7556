"""What every configuration key means, and mistakes in it as sentences. Imports nothing heavy."""
