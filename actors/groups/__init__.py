"""Group coordinators: membership, assignment and offsets."""
