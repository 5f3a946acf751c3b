"""What the measuring programs of benches/ share: servers, processes, a client of the wire protocol."""
