"""What is remembered: record batches, logs and their recovery, the metadata store. Knows no topic names, no sockets."""
