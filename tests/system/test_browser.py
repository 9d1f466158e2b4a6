"""The page in a real Chromium: what people see in their windows, and what their hands can do.

Each person has a browser of their own. What is looked at is named at the top of
chat/static/chat/chat.js. All of them are at one server, which two tests take away under them.
"""

import contextlib
import shutil
import tempfile
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from tests.conftest import needs
from tests.system.children import DEADLINE, family
from tests.system.conftest import PASSWORD, environment, serve

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=900,700",
)


class Window:
    """One person's browser, with a profile of its own."""

    def __init__(self, name):
        self.name = name
        self.profile = tempfile.mkdtemp(prefix="chromium-")
        options = webdriver.ChromeOptions()
        options.binary_location = needs("chromium")
        for flag in (*FLAGS, f"--user-data-dir={self.profile}"):
            options.add_argument(flag)
        service = webdriver.ChromeService(needs("chromedriver"))
        self.driver = webdriver.Chrome(options, service)

    def close(self):
        self.driver.quit()
        shutil.rmtree(self.profile, ignore_errors=True)  # Chromium may still be writing

    # What is seen

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector):
        """The element, as soon as it is there and shown."""
        return self.until(lambda: next((e for e in self.all(selector) if e.is_displayed()), None))

    def until(self, condition):
        """What `condition` gives as soon as that is something."""
        wait = WebDriverWait(self.driver, DEADLINE, 0.05, [StaleElementReferenceException])
        return wait.until(lambda _: condition())

    def sees(self, selector, text):
        """Wait until an element has exactly this text."""
        self.until(lambda: text in [element.text for element in self.all(selector)])

    def lines(self, room):
        """(type, who, text) of every line of a room."""
        return [
            tuple(
                [line.get_attribute("data-type")]
                + [part.text for part in line.find_elements(By.CSS_SELECTOR, ".who, .text")]
            )
            for line in self.all(f'[data-panel="{room}"] .line')
        ]

    def connected(self):
        return self.one('#state[data-state="open"]')

    @property
    def focused(self):
        return self.driver.switch_to.active_element

    # What is done

    def log_in(self, url):
        self.driver.get(f"{url}/")
        self.one("input[name=username]").send_keys(self.name)
        self.one("input[name=password]").send_keys(PASSWORD, Keys.ENTER)
        self.connected()

    def join(self, room):
        self.one(f'[data-room="{room}"]').click()
        return self.one(f'[data-panel="{room}"]')

    def say(self, room, text):
        self.one(f'[data-panel="{room}"] input').send_keys(text)
        self.one(f'[data-panel="{room}"] form button').click()

    def press(self, *keys):
        webdriver.ActionChains(self.driver).send_keys(*keys).perform()

    def tab_to(self, selector):
        """Reach an element as people without a mouse do."""
        wanted = self.one(selector)
        for _ in range(40):
            if self.focused == wanted:
                return wanted
            self.press(Keys.TAB)
        raise AssertionError(f"no way to {selector} with the Tab key")


class Door:
    """The server that the browsers are at. It can crash, and come back on the same port."""

    def __init__(self, run):
        self._run = run
        self._child = serve(run, "door", "multichat.relay")
        self.url = self._child.line("Thyme listens on ")

    def crash(self):
        self._child.kill()

    def come_back(self):
        port = int(self.url.rpartition(":")[2])
        self._child = serve(self._run, "door", "multichat.relay", port)
        assert self._child.line("Thyme listens on ") == self.url


@pytest.fixture(scope="session")
def windows():
    """Browsers by the name of who sits there; started once, they stay until the end."""
    opened = {}
    yield opened
    with contextlib.ExitStack() as endings:
        for window in opened.values():
            endings.callback(window.close)


@pytest.fixture(scope="module")
def door(system, windows):
    with family() as start:
        places = environment(system.redis, system.database, "door")
        yield Door(lambda name, *arguments: start(name, *arguments, **places))
        for window in windows.values():
            window.driver.get("about:blank")


@pytest.fixture
def sit_down(windows, door, request):
    """sit_down(name): that person's window, freshly loaded, logged in and connected."""

    def open_window(name):
        if name not in windows:
            windows[name] = Window(name)
        window = windows[name]
        window.driver.get(f"{door.url}/")
        if window.all("input[name=username]"):
            window.log_in(door.url)
        window.connected()
        return window

    failed = request.session.testsfailed
    yield open_window
    if request.session.testsfailed > failed:
        pictures = Path(tempfile.mkdtemp(prefix="screenshots-"))
        for name, window in windows.items():
            file = pictures / f"{name}.png"
            window.driver.save_screenshot(str(file))
            print(f"Screenshot of {name}'s window: {file}")


def test_two_people_see_each_others_lines(sit_down, room):
    alice, bob = sit_down("alice"), sit_down("bob")
    alice.join(room)
    bob.join(room)
    alice.say(room, "Tea?")
    bob.sees(".line .text", "Tea?")
    bob.say(room, "Yes.")
    alice.sees(".line .text", "Yes.")
    heard = [("message", "alice", "Tea?"), ("message", "bob", "Yes.")]
    assert alice.lines(room) == [("enter", "bob", "joined"), *heard]
    assert bob.lines(room) == heard
    assert [line.text for line in bob.all(".line[data-mine] .text")] == ["Yes."]


def test_others_see_who_goes(sit_down, room):
    alice, bob = sit_down("alice"), sit_down("bob")
    alice.join(room)
    panel = bob.join(room)
    panel.find_element(By.CSS_SELECTOR, "button.leave").click()
    alice.sees(".line .text", "left")
    assert alice.lines(room) == [("enter", "bob", "joined"), ("leave", "bob", "left")]
    bob.until(lambda: not bob.all(f'[data-panel="{room}"]'))


def test_who_is_not_staff_is_refused_the_staff_room_and_told_so(sit_down, room, staff_room):
    alice, bob, carol = sit_down("alice"), sit_down("bob"), sit_down("carol")
    alice.join(staff_room)
    carol.one(f'[data-room="{staff_room}"]').click()
    notice = carol.one('#notice[data-code="ROOM_ACCESS_DENIED"]')
    assert notice.text == "Office: You may not enter this room."
    assert carol.one(f'[data-room="{staff_room}"]').get_attribute("aria-pressed") == "false"
    assert not carol.all(f'[data-panel="{staff_room}"]')
    # The others go on, and so does she, elsewhere.
    bob.join(room)
    carol.join(room)
    assert not carol.all('#notice[data-code="ROOM_ACCESS_DENIED"]')
    bob.say(room, "Hello, Carol.")
    carol.sees(".line .text", "Hello, Carol.")
    alice.say(staff_room, "Psst.")
    alice.sees(".line .text", "Psst.")
    assert alice.lines(staff_room) == [("message", "alice", "Psst.")]


def test_what_people_type_is_text_and_never_html(sit_down, room):
    alice, bob = sit_down("alice"), sit_down("bob")
    alice.join(room)
    bob.join(room)
    typed = (
        "<b>x</b><script>document.title='owned'</script><img src=x onerror=\"document.title=1\">"
    )
    alice.say(room, typed)
    for window in (alice, bob):
        window.sees(".line .text", typed)
        assert not window.all(".line b, .line script, .line img")
        assert window.driver.title == "Multichat"


def test_a_title_is_text_too(sit_down, new_room):
    title = "<i>Bar</i> & co"
    room = new_room(title)
    bob = sit_down("bob")
    assert bob.one(f'[data-room="{room}"] .title').text == title
    assert bob.join(room).find_element(By.CSS_SELECTOR, "h2").text == title


def test_a_page_comes_back_and_rejoins_its_rooms_after_its_server_crashed(sit_down, door, new_room):
    rooms = [new_room("Kitchen"), new_room("Cellar")]
    alice, bob = sit_down("alice"), sit_down("bob")
    for room in rooms:
        alice.join(room)
        bob.join(room)
    bob.one(f'[data-panel="{rooms[0]}"] input').send_keys("half a line")
    door.crash()
    try:
        for window in (alice, bob):
            window.one('#state:not([data-state="open"])')
    finally:
        door.come_back()
    again = "Reconnected. Messages sent in the meantime are not shown."
    for window in (alice, bob):
        assert window.connected().text == "Connected"
        for room in rooms:
            window.sees(f'[data-panel="{room}"] .text', again)
    bob.say(rooms[0], " and the rest")
    bob.say(rooms[1], "Here, too.")
    for window in (alice, bob):
        window.sees(f'[data-panel="{rooms[0]}"] .text', "half a line and the rest")
        window.sees(f'[data-panel="{rooms[1]}"] .text', "Here, too.")


def test_the_chat_needs_no_mouse(sit_down, room, staff_room):
    bob = sit_down("bob")
    bob.tab_to(f'[data-room="{room}"]')
    bob.press(Keys.ENTER)
    field = bob.one(f'[data-panel="{room}"] input')
    bob.until(lambda: bob.focused == field)  # one can type at once
    bob.press("No mouse", Keys.ENTER)
    bob.sees(".line .text", "No mouse")
    assert bob.focused == field
    bob.press(Keys.ESCAPE)  # back to the list
    assert bob.focused == bob.one(f'[data-room="{room}"]')
    bob.press(Keys.SPACE)
    bob.until(lambda: not bob.all(f'[data-panel="{room}"]'))
    bob.tab_to("#logout button")
    bob.press(Keys.ENTER)
    bob.one("input[name=password]")


def test_logging_in_needs_no_mouse(sit_down, door):
    carol = sit_down("carol")
    carol.driver.delete_all_cookies()
    carol.driver.get(f"{door.url}/")
    carol.tab_to("input[name=username]")
    carol.press("carol", Keys.TAB, PASSWORD, Keys.TAB, Keys.ENTER)
    assert carol.connected()
    assert carol.one("#user").text == "carol"
