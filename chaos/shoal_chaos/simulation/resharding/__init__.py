"""Who splits shards and moves microshards where there are no managers."""
