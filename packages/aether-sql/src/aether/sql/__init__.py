"""Aether on SQL: SQLite embedded, PostgreSQL for production, MariaDB too."""
