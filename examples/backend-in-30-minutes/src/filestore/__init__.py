"""An Aether backend in one file, over plain sqlite3. Open it as `filestore:///absolute/path.db`."""
