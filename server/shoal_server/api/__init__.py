"""The public gRPC API (proto/shoal/v1): every node serves it, and answers for any key by the client library."""
