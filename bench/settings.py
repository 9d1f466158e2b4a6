"""Django's settings for the benchmark, the same for every server.

Differences are set in the environment: BENCH_LAYER is the channel layer ("gredis", "core", "pubsub"
or "none"), REDIS_URL and DATABASE_URL are the services, and BENCH_GEVENT=1 means that gevent has
patched this process.
"""

import os

import dj_database_url

SECRET_KEY = "not a secret: the benchmark serves loopback only"
ALLOWED_HOSTS = ["*"]
INSTALLED_APPS = ["channels", *(["thyme"] if os.environ.get("BENCH_THYME") else [])]
MIDDLEWARE = ["django.middleware.common.CommonMiddleware"]
ROOT_URLCONF = "bench.application"
ASGI_APPLICATION = "bench.application.application"
USE_TZ = True

REDIS_URL = os.environ.get("REDIS_URL", "redis://localhost:6379")
# By default, the other layers drop messages above 100 per channel.
LAYERS = {
    "gredis": ("gredis.GredisChannelLayer", {"url": REDIS_URL, "capacity": 2000}),
    "core": ("channels_redis.core.RedisChannelLayer", {"hosts": [REDIS_URL], "capacity": 2000}),
    "pubsub": ("channels_redis.pubsub.RedisPubSubChannelLayer", {"hosts": [REDIS_URL]}),
}
CHANNEL_LAYERS = {}
if (name := os.environ.get("BENCH_LAYER", "none")) != "none":
    CHANNEL_LAYERS["default"] = {"BACKEND": LAYERS[name][0], "CONFIG": LAYERS[name][1]}

POOL = 100
if os.environ.get("BENCH_GEVENT"):
    DATABASES = {
        "default": dj_database_url.parse(
            os.environ["DATABASE_URL"],
            engine=os.environ.get(
                "BENCH_ENGINE", "django_db_geventpool.backends.postgresql_psycopg2"
            ),
        )
    }
    DATABASES["default"]["OPTIONS"] = {"MAX_CONNS": POOL, "REUSE_CONNS": POOL}
else:
    # Persistent connections are the best setting for a server with one thread.
    DATABASES = {
        "default": dj_database_url.parse(
            os.environ["DATABASE_URL"], engine="django.db.backends.postgresql", conn_max_age=600
        )
    }
LOGGING_CONFIG = None
