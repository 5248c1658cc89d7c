"""The control RPC, gRPC: its messages, what makes requests and rows of them, and the client of the command line."""
