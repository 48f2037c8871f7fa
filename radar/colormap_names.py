"""The colour maps by name, apart from their tables so that command lines can list them without NumPy."""

NAMES = ("jet", "jet_mpl", "parula", "viridis", "turbo", "plasma", "inferno", "magma", "cividis", "hot", "gray")
