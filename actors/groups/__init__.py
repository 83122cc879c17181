"""Group coordinators: membership, assignment and offsets. Nothing is here yet."""
