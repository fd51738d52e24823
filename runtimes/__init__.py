"""One driver per serving runtime. Each satisfies `modelium.ports.Runtime` by shape."""
