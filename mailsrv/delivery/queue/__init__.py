"""The queue: takes mail out of the spool, attempts its delivery, and tries again."""
