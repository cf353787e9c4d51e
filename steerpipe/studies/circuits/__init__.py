"""What a feature at one layer does at later layers and at the head."""
