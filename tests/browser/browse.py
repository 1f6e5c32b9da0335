"""Uses the console as a person would: browse.py ACTING READ_ONLY LETTERS [--screenshots DIRECTORY]"""

import http.server
import os
import re
import shutil
import sys
import threading
import time
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

ACTING, READ_ONLY, MANY = sys.argv[1], sys.argv[2], int(sys.argv[3])
SCREENSHOTS = sys.argv[5] if sys.argv[4:5] == ["--screenshots"] else None
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PORT = urlsplit(ACTING).port
PATIENCE = 60
CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


def until(what, ask):
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if found := ask():
            return found
        time.sleep(0.05)
    raise AssertionError(f"waited in vain until {what}")


def number(text):
    return int(re.search(r"[\d,]+", text).group().replace(",", ""))


def done(page):
    """How far the action of this page has come."""
    return number(page.locator("#progress label").inner_text())


def dead(page, kind="task.delete", **more):
    query = "&".join(f"{name}={value}" for name, value in {"kind": kind, **more}.items())
    page.goto(f"{ACTING}/dead?{query}")
    return number(page.locator("#letters").inner_text())


# Of docs/console.md.
PICTURES = ["console-overview", "console-dead-dark", "console-letter", "console-progress-dark", "console-guard"]


def shoot(page, name):
    if SCREENSHOTS and name in PICTURES:
        page.screenshot(path=f"{SCREENSHOTS}/{name}.png")


def read_to_the_end(page):
    """The mirror is read when its page no longer says that there may be more."""
    def is_read():
        page.goto(f"{ACTING}/dead?kind=task.delete")
        return "still being read" not in page.content()
    until("the mirror is read", is_read)


@check
def dead_letters_are_grouped_and_filtered(page):
    read_to_the_end(page)
    page.goto(ACTING)
    shoot(page, "console-overview")
    groups = page.get_by_role("region", name="Table of groups")
    row = groups.get_by_role("row").filter(has_text="attempts_exhausted")
    assert number(row.locator("td.number").first.inner_text()) == MANY, row.inner_text()
    row.get_by_role("link", name="attempts_exhausted").click()
    assert number(page.locator("#letters").inner_text()) == MANY
    page.get_by_label("Object id").fill(f"{7:032x}")
    page.get_by_role("button", name="Filter").click()
    assert number(page.locator("#letters").inner_text()) == 1
    page.goto(f"{ACTING}/dead")
    page.get_by_label("Kind").select_option("task.delete")
    page.get_by_label("Organisation", exact=True).fill("beta")
    page.get_by_role("button", name="Filter").click()
    assert number(page.locator("#letters").inner_text()) == 12
    shoot(page, "console-dead")
    assert dead(page, older_than="3h") == 12 and dead(page, newer_than="10m") == 1
    page.goto(f"{ACTING}/dead?older_than=soon")
    assert "takes a duration" in page.get_by_role("alert").inner_text()


@check
def what_a_producer_wrote_is_text(page):
    dead(page, reason="malformed")
    page.locator("table.letters tbody a").first.click()
    assert "<script>window.pwned = 1</script>" in page.locator("pre").inner_text()
    assert "<script>window.pwned" in page.locator("h1").inner_text()
    assert page.evaluate("window.pwned") is None


@check
def one_dead_letter_tells_its_history(page):
    dead(page, org="beta")
    page.locator("table.letters tbody a").first.click()
    steps = page.locator("ol.history li")
    assert steps.count() == 4 and "replayed" in steps.nth(2).inner_text()
    assert "0af7651916cd43dd8448eb211c80319c" in page.locator("dl.facts").inner_text()
    shoot(page, "console-letter")


@check
def an_export_has_what_matches_and_takes_nothing(page):
    before = dead(page, org="beta")
    page.get_by_role("group", name="All 12 that match").get_by_role("button", name="Export").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Export 12 dead letters").click()
    with open(download.value.path()) as file:
        assert len(file.readlines()) == 12
    assert dead(page, org="beta") == before


@check
def thousands_are_replayed_with_a_rate_seen_after_a_reload_and_cancelled(page):
    assert dead(page, reason="attempts_exhausted") == MANY
    page.get_by_role("group", name=f"All {MANY:,}").get_by_role("button", name="Replay").click()
    assert page.locator("h1").inner_text() == f"Replay {MANY:,} dead letters"
    shoot(page, "console-preview")
    page.get_by_label("How many a second at most").fill("400")
    began = time.monotonic()
    page.get_by_role("button", name=f"Replay {MANY:,} dead letters").click()
    until("some are done", lambda: done(page) > 200)
    before = done(page)
    page.reload()
    assert done(page) >= before and "At work" in page.locator("#progress").inner_text()
    until("a third is done", lambda: done(page) > MANY // 3)
    assert (time.monotonic() - began) > (MANY // 3) / 400 * 0.9, "the rate is kept"
    shoot(page, "console-progress")
    page.get_by_role("button", name="Cancel").click()
    until("it has ended", lambda: "What was not done" in page.locator("#progress").inner_text())
    replayed = done(page)
    assert MANY // 3 < replayed < MANY, replayed
    left = MANY - replayed
    until("the mirror knows", lambda: dead(page, reason="attempts_exhausted") == left)
    page.goto(ACTING)
    last = page.get_by_role("region", name="Table of actions").inner_text()
    assert f"replayed {replayed} of task.delete, cut short" in last and "ann" in last, last


@check
def picked_ones_are_discarded_into_the_file(page):
    assert dead(page, "tag.delete") == 3
    for box in page.locator("table.letters tbody input").all()[:2]:
        box.check()
    page.get_by_role("group", name="The picked ones").get_by_role("button", name="Discard").click()
    page.get_by_label("Why they may go").fill("the tags are gone")
    page.get_by_role("button", name="Discard 2 dead letters").click()
    until("it is done", lambda: "Done." in page.locator("#progress").inner_text())
    with open(os.environ["DISCARDED"]) as file:
        lines = file.readlines()
    assert len(lines) == 2 and all('"by":"ann"' in line and "the tags are gone" in line for line in lines)
    until("the mirror knows", lambda: dead(page, "tag.delete") == 1)


@check
def a_guard_is_decided_about_and_a_pause_ended(page):
    page.goto(f"{ACTING}/guard")
    page.get_by_role("button", name="Look into the queue").first.click()
    assert "cleanup-job" in page.content()
    shoot(page, "console-guard")
    page.get_by_text("Release: let so many more pass").click()
    form = page.locator("form[action='/guard/release']")
    form.get_by_label("How many").fill("5")
    form.get_by_label("Reason").fill("agreed, see 4713")
    form.get_by_label("Type the organisation's id").fill("delta")
    form.get_by_role("button", name="Release").click()
    assert "nothing was done" in page.get_by_role("alert").inner_text()
    page.go_back()
    form = page.locator("form[action='/guard/release']")
    if not form.get_by_label("How many").is_visible():
        page.get_by_text("Release: let so many more pass").click()
    form.get_by_label("How many").fill("5")
    form.get_by_label("Reason").fill("agreed, see 4713")
    form.get_by_label("Type the organisation's id").fill("gamma")
    form.get_by_role("button", name="Release").click()
    until("it is done", lambda: "Done." in page.locator("#progress").inner_text())
    page.goto(f"{ACTING}/guard")
    resume = page.locator("form[action='/resume']")
    resume.get_by_label("Reason").fill("migrated")
    resume.get_by_role("button", name="Resume").click()
    until("it is done", lambda: "Done." in page.locator("#progress").inner_text())

    def is_resumed():
        page.goto(f"{ACTING}/guard")
        return "Nothing is paused" in page.content()
    until("nothing is paused", is_resumed)


@check
def who_may_only_look_sees_no_button_and_is_refused(page):
    page.goto(f"{READ_ONLY}/dead?kind=task.delete&org=beta")
    buttons = [button.inner_text() for button in page.get_by_role("button").all()]
    assert set(buttons) == {"Filter", "Export…"}, buttons
    page.goto(f"{READ_ONLY}/guard")
    assert page.locator("form[action='/pause'], form[action='/resume'], details").count() == 0
    for path in ["/replay", "/discard", "/pause", "/resume", "/guard/release", "/guard/reject", "/preview/replay",
                 "/preview/discard", "/actions/1/cancel"]:
        status = page.evaluate("path => fetch(path, {method: 'POST', body: 'everybody=1&reason=x&kind=task.delete&all=1'}).then(a => a.status)", path)
        assert status == 403, (path, status)


@check
def a_form_of_another_site_is_refused(page):
    form = f"<form id=f method=post action='{ACTING}/pause'><input name=everybody value=1><input name=reason value=x></form><script>f.submit()</script>"

    class Elsewhere(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(form.encode())

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Elsewhere)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for host in ["localhost", "127.0.0.1"]:
        with page.expect_response(lambda answer: answer.url == f"{ACTING}/pause") as answer:
            page.goto(f"http://{host}:{server.server_port}/")
        assert answer.value.status == 403, host
    page.goto(f"{ACTING}/guard")
    assert "Nothing is paused" in page.content()
    # And it shows in no frame of somebody else.
    form = f"<iframe src='{ACTING}/'></iframe>"
    page.goto(f"http://localhost:{server.server_port}/")
    page.wait_for_timeout(500)
    assert all("Overview" not in frame.content() for frame in page.frames if frame != page.main_frame)
    server.shutdown()


@check
def a_name_that_somebody_points_here_is_not_answered(page):
    answer = page.goto(f"http://evil.example:{PORT}/")
    assert answer.status == 421 and "Overview" not in page.content()


@check
def the_keyboard_leads_everywhere(page):
    page.goto(ACTING)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "To the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    names = []
    page.goto(f"{ACTING}/dead?kind=task.delete&org=beta")
    for _ in range(60):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.name || document.activeElement.textContent"))
    for wanted in ["Overview", "kind", "Filter", "letter", "Replay…", "Discard…", "Export…"]:
        assert wanted in names, (wanted, names)


@check
def axe_finds_nothing_wrong(page):
    letters = f"{ACTING}/dead?kind=task.delete&org=beta"
    page.goto(letters)
    letter = page.locator("table.letters tbody a").first.get_attribute("href")
    for scheme in ["light", "dark"]:
        page.emulate_media(color_scheme=scheme)
        for path in [ACTING, letters, ACTING + letter, f"{ACTING}/guard", f"{ACTING}/actions", f"{ACTING}/actions/1"]:
            page.goto(path)
            found = Axe().run(page)
            assert found.violations_count == 0, f"{scheme} {path}\n{found.generate_report()}"


def without_script(browser):
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(f"{ACTING}/dead?kind=task.delete&org=beta")
    page.locator("table.letters tbody input").first.check()
    page.get_by_role("group", name="The picked ones").get_by_role("button", name="Replay").click()
    page.get_by_role("button", name="Replay 1 dead letter").click()
    # The page asks again by itself.
    until("it is done", lambda: "Done." in page.locator("#progress").inner_text())
    page.context.close()


def dark(browser):
    page = browser.new_context(color_scheme="dark", viewport={"width": 1200, "height": 760}).new_page()
    for name, path in [("overview", "/"), ("dead", "/dead?kind=task.delete&org=beta"), ("guard", "/guard"), ("progress", "/actions/1")]:
        page.goto(ACTING + path)
        shoot(page, f"console-{name}-dark")
    page.goto(f"{ACTING}/dead?kind=task.delete&org=beta")
    page.locator("table.letters tbody a").first.click()
    shoot(page, "console-letter-dark")
    page.context.close()


def main():
    failed = 0
    with sync_playwright() as playwright:
        rules = "--host-resolver-rules=MAP evil.example 127.0.0.1"
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", rules])
        for one in CHECKS + [without_script, dark]:
            page, complaints = None, []
            try:
                if one in CHECKS:
                    page = browser.new_context(viewport={"width": 1200, "height": 760}).new_page()
                    page.set_default_timeout(20_000)
                    # What the policy forbids, and what the script gets wrong.
                    page.on("pageerror", lambda error: complaints.append(str(error)))
                    one(page)
                    page.context.close()
                else:
                    one(browser)
                assert not complaints, complaints
                print(f"  {one.__name__.replace('_', ' ')}: ok", flush=True)
            except Exception as error:
                failed += 1
                print(f"  {one.__name__.replace('_', ' ')}: FAILED: {error}", flush=True)
                if page:
                    print(page.url, page.inner_text("body")[:1500] if not page.is_closed() else "", flush=True)
        browser.close()
    print(f"{len(CHECKS) + 2 - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


main()
