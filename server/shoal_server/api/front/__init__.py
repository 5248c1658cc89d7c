"""What stands before gRPC: whoever calls is connected here, and what it sends goes on as there is room for it."""
