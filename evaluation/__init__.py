"""Judging synthetic spectrograms. Reads folders of images; it neither knows nor cares which model wrote them."""
