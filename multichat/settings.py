"""Settings of the chat, safe as they stand: debugging is off, the secret key is the checkout's.

What differs between machines comes from the environment:

    DJANGO_SECRET_KEY            else made once and kept in .thyme/secret_key
    DJANGO_DEBUG                 1 for Django's debug pages; off otherwise
    DJANGO_ALLOWED_HOSTS         names this site answers to, with commas; also the Origins whose
                                 WebSockets are let in. Loopback names otherwise
    DJANGO_HTTPS                 1 behind a proxy that ends TLS and sets X-Forwarded-Proto itself
    DJANGO_HSTS_SECONDS          3600, with DJANGO_HTTPS: for how long browsers insist on it
    DJANGO_HSTS_SUBDOMAINS       1 when that holds for all subdomains and for preload lists, too
    DJANGO_LOG_LEVEL             INFO
    REDIS_URL, DATABASE_URL      see addresses.py
    DATABASE_MAX_CONNECTIONS     20, per process (on gevent, see postgres/base.py)
    DATABASE_CONN_MAX_AGE        0, seconds (elsewhere)
    CHAT_RATE, CHAT_BURST        see chat/conf.py, also for the chat's other settings

https://docs.djangoproject.com/en/5.2/ref/settings/
"""

import os
import sys
from pathlib import Path

import dj_database_url

from .addresses import database_url, redis_url, state_directory
from .secret import secret_key

BASE_DIR = Path(__file__).resolve().parent.parent


def switched_on(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("1", "true", "yes", "on")


def listed(name: str, default: str = "") -> list[str]:
    return [item.strip() for item in os.environ.get(name, default).split(",") if item.strip()]


# Security

SECRET_KEY = os.environ.get("DJANGO_SECRET_KEY") or secret_key(state_directory() / "secret_key")
DEBUG = switched_on("DJANGO_DEBUG")
ALLOWED_HOSTS = listed("DJANGO_ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]")
# The page's scripts and styles are files of this site and nothing else may run; `connect-src`
# 'self' includes this site's WebSocket.
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none';"
    " form-action 'self'; frame-ancestors 'none'"
)

if switched_on("DJANGO_HTTPS"):
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    SECURE_SSL_REDIRECT = True
    SESSION_COOKIE_SECURE = True
    CSRF_COOKIE_SECURE = True
    # Browsers come by HTTPS only, for so long after each visit. An hour can be undone; when all is
    # well, DJANGO_HSTS_SECONDS=31536000 is a year.
    SECURE_HSTS_SECONDS = int(os.environ.get("DJANGO_HSTS_SECONDS", "3600"))
    # W005, W021: whether all subdomains speak HTTPS is the operator's to know, not ours to assume.
    SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]
    SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = switched_on("DJANGO_HSTS_SUBDOMAINS")

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
    "chat",  # first: its login page rather than the admin's
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
# Files are found where the applications keep them: no collectstatic, whatever the server.
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = DEBUG
LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True

# Services


def on_gevent() -> bool:
    """True where the standard library's sockets wait in gevent's hub (thyme, runworker2)."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and monkey.is_module_patched("socket")


def database() -> dict[str, object]:
    """DATABASES["default"]: a bounded pool for greenlets, Django's own backend for threads.

    Each greenlet that touches the ORM takes a connection, so on gevent they are pooled, and
    given back after every event and page (CONN_MAX_AGE 0).
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
    # PostgreSQL allows 100 connections in all unless told otherwise: four processes fit.
    bound = int(os.environ.get("DATABASE_MAX_CONNECTIONS", "20"))
    settings.setdefault("OPTIONS", {}).update(MAX_CONNS=bound, REUSE_CONNS=bound)
    return settings


DATABASES = {"default": database()}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
CHANNEL_LAYERS = {
    "default": {"BACKEND": "gredis.GredisChannelLayer", "CONFIG": {"url": redis_url()}},
}

# The log: one line an event, on stderr, errors with their traceback. No mail is sent.

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": os.environ.get("DJANGO_LOG_LEVEL", "INFO")},
    "loggers": {"django": {"handlers": [], "level": "INFO", "propagate": True}},
}

# The chat: settings of the original multichat, and how fast one socket may send

NOTIFY_USERS_ON_ENTER_OR_LEAVE_ROOMS = True

MSG_TYPE_MESSAGE = 0  # what a user said
MSG_TYPE_WARNING = 1  # yellow
MSG_TYPE_ALERT = 2  # red
MSG_TYPE_MUTED = 3  # need not be noticed
MSG_TYPE_ENTER = 4  # somebody came
MSG_TYPE_LEAVE = 5  # somebody left

MESSAGE_TYPES_CHOICES = (
    (MSG_TYPE_MESSAGE, "MESSAGE"),
    (MSG_TYPE_WARNING, "WARNING"),
    (MSG_TYPE_ALERT, "ALERT"),
    (MSG_TYPE_MUTED, "MUTED"),
    (MSG_TYPE_ENTER, "ENTER"),
    (MSG_TYPE_LEAVE, "LEAVE"),
)
MESSAGE_TYPES_LIST = [number for number, _ in MESSAGE_TYPES_CHOICES]

CHAT_RATE = float(os.environ.get("CHAT_RATE", "5"))  # frames a second
CHAT_BURST = int(os.environ.get("CHAT_BURST", "20"))  # frames
