"""Event-loop drivers of the split's endpoints: gevent and asyncio."""
