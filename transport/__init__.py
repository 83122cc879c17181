"""What is said and how it travels: messages, codec, sockets, endpoints, connections."""
