"""What the values of a checkpoint show beside their row order: each module asks one question of one pass over them."""
