"""How a request becomes a call: endpoints, routes, bodies, access, problems, OpenAPI."""
