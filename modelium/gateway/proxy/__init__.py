"""The data plane: routes, request forwarding, replies and usage counting."""
