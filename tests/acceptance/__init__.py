"""What users were promised, tried as they would: real processes, a real store, a model over real HTTP."""
