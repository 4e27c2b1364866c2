"""What computing costs and how loops are compiled."""
