"""What verify does, piece by piece: run the projection, judge each claim, compare with a record or a proof."""
