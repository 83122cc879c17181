"""The metadata process (the store's server, sessions, the lease) and the brokers' client of it."""
