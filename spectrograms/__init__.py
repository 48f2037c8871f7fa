"""Files of spectrograms: finding, decoding, splitting without leaks, augmenting, writing back."""
