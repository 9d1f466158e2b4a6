"""Django's settings for `stock_site.py`: nothing of thyme, nothing of gevent."""

import os

SECRET_KEY = "for tests on loopback only"
ALLOWED_HOSTS = ["*"]
INSTALLED_APPS = ["channels"]
ROOT_URLCONF = "tests.contract.stock_site"
ASGI_APPLICATION = "tests.contract.stock_site.application"
USE_TZ = True
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "gredis.GredisChannelLayer",
        "CONFIG": {"url": os.environ["GREDIS_URL"], "announce_losses": True},
    }
}
