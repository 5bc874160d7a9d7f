# Result: (pages, failed)
import random
import time


class Timeout(Exception):
    pass


def fetch(url):
    if random.random() < 0.3:
        raise Timeout(url)
    return f"<title>{url.rsplit('/', 1)[1]}</title>"


random.seed(21)
urls = [f"https://example.org/page/{n}" for n in range(12)]
pages, failed = [], []
for url in city.loop(urls, state={"pages": pages, "failed": failed}):
    html = None
    for attempt in range(3):
        try:
            html = fetch(url)
            break
        except Timeout as error:
            wait = 0.0001 * 2**attempt
            print(f"{error}: again in {wait} s")
            time.sleep(wait)
    if html is None:
        failed.append(url)
        continue
    title = html.removeprefix("<title>").removesuffix("</title>")
    pages.append({"url": url, "title": title, "length": len(html)})
print(f"{len(pages)} pages, {len(failed)} failed")
