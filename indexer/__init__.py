"""Documents in, a searchable index out: corpus readers, chunking, embedding, storage and retrieval."""
