"""Colours that are told apart by colour-blind eyes too."""

# Okabe and Ito's, without yellow and black.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9")
