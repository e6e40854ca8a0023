"""Read answers: find them in a response, clean their LaTeX, and parse them into trees.

Other packages use `last_boxes`, the contents of a text's final boxes, and `clean`, the canonical
spelling of an answer.
"""

from custom_components.verifier.read.extract import last_boxes
from custom_components.verifier.read.latex import clean

__all__ = ["clean", "last_boxes"]
