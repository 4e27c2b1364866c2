"""What training costs in operations and memory, and how loops are compiled."""
