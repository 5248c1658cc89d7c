"""The Raft core: pure, without clock, socket, thread or disk.

Its words are Raft's: a *follower* is whoever does not lead and does not campaign, a voter or not, and a *learner* is a member
that gets the log and has no vote. Whoever uses Shoal knows no learners: in status, shard maps and settings such a member is a
*follower*, and one with a vote a *voter*, whatever it does at the moment.
"""
