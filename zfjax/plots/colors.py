"""The palette: Okabe and Ito's colors, which color-blind readers can tell apart."""

BLUE = "#0072B2"
VERMILION = "#D55E00"
GREEN = "#009E73"
ORANGE = "#E69F00"
PURPLE = "#CC79A7"
SKY = "#56B4E9"
YELLOW = "#F0E442"
GRAY = "#7F7F7F"

LINES = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY)  # for curves on white, where yellow would not show
AREAS = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION, YELLOW)  # for areas that touch
