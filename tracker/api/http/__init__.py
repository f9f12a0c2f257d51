"""The HTTP layer of the API: endpoints, routes, bodies, access, problem documents and OpenAPI."""
