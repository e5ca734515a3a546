"""Reads a page strictly: what tests of pages look at."""

from html.parser import HTMLParser


class Balanced(HTMLParser):
    """Collects text and addresses, and fails where tags do not close in order."""

    void = {"meta", "img"}

    def __init__(self):
        super().__init__()
        self.open, self.text, self.addresses, self.tags = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "xlink:href", "action")]
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def parsed(text):
    page = Balanced()
    page.feed(text)
    page.close()
    assert page.open == []
    return page
