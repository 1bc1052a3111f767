"""The page of a promotion: champion and challenger beside each other, and what the gate says of them."""
