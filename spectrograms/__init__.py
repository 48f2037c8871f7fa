"""Files of spectrograms: finding them, decoding them, splitting them without leaks. NumPy and Pillow, no torch."""
