"""What operators' tools are built on: one node asked directly (`connection`), and all of them at one time (`survey`)."""

from shoal.admin.connection import AdminConnection

__all__ = ["AdminConnection"]
