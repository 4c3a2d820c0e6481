//! Links, addresses, routes, names and time.
