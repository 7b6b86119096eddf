"""A head that is another machine: both ends of a conversation with it, and who may have one."""
