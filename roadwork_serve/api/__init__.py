"""The HTTP API, without Ray: routes, authentication, admission, and the services behind the routes."""
