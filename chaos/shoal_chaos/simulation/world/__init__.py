"""What everything is in: time, the network, disks, event loops and garbage; nothing here knows of clusters."""
