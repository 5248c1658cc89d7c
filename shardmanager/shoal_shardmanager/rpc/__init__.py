"""The control RPC, gRPC: conversions, the service, and the client that the command line uses."""
