"""PostgreSQL: models, migrations, and one small module of named queries per noun."""
