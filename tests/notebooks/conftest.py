"""When a test of the course fails, say which chapters a reader has changed, and how to go back."""

import pytest
from course import chapters


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed and (paths := chapters.changed()):
        advice = "\n".join(map(chapters.how_to_restore, paths))
        report.sections.append(("Chapters that are not as committed", advice))
    return report
