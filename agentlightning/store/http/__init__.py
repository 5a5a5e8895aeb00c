"""The store over HTTP: routes, server and client."""
