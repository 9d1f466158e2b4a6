"""Settings of the chat. The defaults are safe: no debugging, and a secret key of this checkout.

Settings that differ between machines come from the environment:

    DJANGO_SECRET_KEY            default: generated once, stored in .thyme/secret_key
    DJANGO_DEBUG                 1 for Django's debug pages; default: off
    DJANGO_ALLOWED_HOSTS         host names of this site, separated by commas, which are also the
                                 accepted Origins of WebSockets; default: loopback names
    DJANGO_HTTPS                 1 behind a proxy that terminates TLS and sets X-Forwarded-Proto
    DJANGO_HSTS_SECONDS          with DJANGO_HTTPS: time for which browsers require HTTPS;
                                 default: 3600
    DJANGO_HSTS_SUBDOMAINS       1 to include all subdomains, and to allow preload lists
    DJANGO_LOG_LEVEL             default: INFO
    REDIS_URL, DATABASE_URL      see addresses.py
    DATABASE_MAX_CONNECTIONS     per process on gevent (postgres/base.py); default: 20
    DATABASE_CONN_MAX_AGE        in seconds, without gevent; default: 0
    CHAT_RATE, CHAT_BURST        see chat/conf.py, which also has the chat's other settings

https://docs.djangoproject.com/en/5.2/ref/settings/
"""

import os
import sys
from pathlib import Path

import dj_database_url

from .addresses import database_url, redis_url, state_directory
from .secret import secret_key

BASE_DIR = Path(__file__).resolve().parent.parent


def is_enabled(name: str) -> bool:
    """Return True if the environment variable `name` is a word for yes."""
    return os.environ.get(name, "").lower() in ("1", "true", "yes", "on")


def read_list(name: str, default: str = "") -> list[str]:
    """Return the items of the environment variable `name`, separated by commas."""
    return [item.strip() for item in os.environ.get(name, default).split(",") if item.strip()]


# Security

SECRET_KEY = os.environ.get("DJANGO_SECRET_KEY") or secret_key(state_directory() / "secret_key")
DEBUG = is_enabled("DJANGO_DEBUG")
ALLOWED_HOSTS = read_list("DJANGO_ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]")
# Only scripts and styles that are files of this site may run. 'self' as the default for
# `connect-src` includes this site's WebSocket.
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none';"
    " form-action 'self'; frame-ancestors 'none'"
)

if is_enabled("DJANGO_HTTPS"):
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    SECURE_SSL_REDIRECT = True
    SESSION_COOKIE_SECURE = True
    CSRF_COOKIE_SECURE = True
    # For this time after each visit, browsers use HTTPS only. An hour can be undone; once HTTPS
    # works, DJANGO_HSTS_SECONDS=31536000 is a year.
    SECURE_HSTS_SECONDS = int(os.environ.get("DJANGO_HSTS_SECONDS", "3600"))
    # W005, W021: only the operator knows whether all subdomains support HTTPS.
    SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]
    SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = is_enabled("DJANGO_HSTS_SUBDOMAINS")

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
LOGIN_URL = "/accounts/login/"
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = LOGIN_URL

# Applications

INSTALLED_APPS = [
    "chat",  # before the admin, so that its login page is used
    "channels",
    "thyme",  # for manage.py runworker2
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "multichat.middleware.ContentSecurityPolicy",
    "multichat.middleware.StaticFiles",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "multichat.urls"
ASGI_APPLICATION = "multichat.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]
STATIC_URL = "/static/"
# Static files are served from the applications' folders, without collectstatic.
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = DEBUG
LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True

# Services


def on_gevent() -> bool:
    """Return True if gevent has patched this process (thyme, runworker2)."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and monkey.is_module_patched("socket")


def database() -> dict[str, object]:
    """Return DATABASES["default"]: a bounded pool on gevent, or else Django's own backend.

    Each greenlet that uses the ORM needs a connection, so on gevent they are pooled, and returned
    after every event and page (CONN_MAX_AGE 0).
    """
    if not on_gevent():
        age = int(os.environ.get("DATABASE_CONN_MAX_AGE", "0"))
        return dj_database_url.parse(
            database_url(), engine="django.db.backends.postgresql", conn_max_age=age
        )
    settings = dj_database_url.parse(
        database_url(),
        engine="multichat.postgres",
        conn_max_age=0,
    )
    # PostgreSQL allows 100 connections by default: enough for four processes.
    bound = int(os.environ.get("DATABASE_MAX_CONNECTIONS", "20"))
    settings.setdefault("OPTIONS", {}).update(MAX_CONNS=bound, REUSE_CONNS=bound)
    return settings


DATABASES = {"default": database()}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
CHANNEL_LAYERS = {
    "default": {"BACKEND": "gredis.GredisChannelLayer", "CONFIG": {"url": redis_url()}},
}

# Logging: one line per event on standard error, errors with a traceback. No mail is sent.

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": os.environ.get("DJANGO_LOG_LEVEL", "INFO")},
    "loggers": {"django": {"handlers": [], "level": "INFO", "propagate": True}},
}

# The chat: settings of the original multichat, and the rate limit of a socket

NOTIFY_USERS_ON_ENTER_OR_LEAVE_ROOMS = True

MSG_TYPE_MESSAGE = 0  # a message of a user
MSG_TYPE_WARNING = 1  # yellow
MSG_TYPE_ALERT = 2  # red
MSG_TYPE_MUTED = 3  # unobtrusive
MSG_TYPE_ENTER = 4  # a user has entered
MSG_TYPE_LEAVE = 5  # a user has left

MESSAGE_TYPES_CHOICES = (
    (MSG_TYPE_MESSAGE, "MESSAGE"),
    (MSG_TYPE_WARNING, "WARNING"),
    (MSG_TYPE_ALERT, "ALERT"),
    (MSG_TYPE_MUTED, "MUTED"),
    (MSG_TYPE_ENTER, "ENTER"),
    (MSG_TYPE_LEAVE, "LEAVE"),
)
MESSAGE_TYPES_LIST = [number for number, _ in MESSAGE_TYPES_CHOICES]

CHAT_RATE = float(os.environ.get("CHAT_RATE", "5"))  # frames per second
CHAT_BURST = int(os.environ.get("CHAT_BURST", "20"))  # frames
