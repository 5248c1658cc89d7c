"""What a process tells of itself: metrics, health pages, slow requests."""
