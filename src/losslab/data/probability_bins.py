"""The bins in which probabilities of target tokens are counted and drawn; imports nothing."""

# Tenths, and the decades below (arXiv 2508.05629, Figure 2).
EDGES = (0.0, 1e-4, 1e-3, 1e-2, *(i / 10 for i in range(1, 11)))
RARE, DOUBTFUL, SURE = 0.01, 0.1, 0.9  # edges that name the ends: p below the first or second, p from the third on
