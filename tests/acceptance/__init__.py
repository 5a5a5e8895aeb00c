"""The promises to users, tested as they use the product: real processes, a real store, a model over HTTP."""
