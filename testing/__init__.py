"""What tests of Callboard, and of programs that use it, need: real clusters, deterministic loops, faulty disks."""
