"""Compare the trees of two answers. Sympy is imported by the first comparison that needs it."""
