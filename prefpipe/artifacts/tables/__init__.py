"""Tables of users: one strict reader for every kind of file and every command."""
