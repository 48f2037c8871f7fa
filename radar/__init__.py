"""Radar physics and arrays: movement, echo, spectrogram, colour map. NumPy and SciPy only, no torch."""
