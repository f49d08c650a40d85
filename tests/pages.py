"""A small tree of a page of HTML, so that no parser has to be installed."""

import html.parser
import re


class Element:
    """An element of a page: tag, attributes, children (elements and text), parent."""

    def __init__(self, tag, attributes, parent):
        self.tag, self.attributes, self.parent, self.children = tag, attributes, parent, []

    def __iter__(self):
        yield self
        for child in self.children:
            if isinstance(child, Element):
                yield from child

    def all(self, *tags):
        return [element for element in self if element.tag in tags]

    def get(self, name):
        return self.attributes.get(name)

    @property
    def text(self):
        return "".join(child.text if isinstance(child, Element) else child for child in self.children)

    def inside(self, tag):
        return self.parent is not None and (self.parent.tag == tag or self.parent.inside(tag))


class _Parser(html.parser.HTMLParser):
    EMPTY = {"meta", "link", "img", "br", "hr", "input"}

    def __init__(self):
        super().__init__()
        self.root = self.now = Element("", {}, None)

    def handle_starttag(self, tag, attrs):
        element = Element(tag, dict(attrs), self.now)
        self.now.children.append(element)
        if tag not in self.EMPTY:
            self.now = element

    def handle_startendtag(self, tag, attrs):
        self.now.children.append(Element(tag, dict(attrs), self.now))

    def handle_endtag(self, tag):
        assert self.now.tag == tag, f"<{self.now.tag}> is closed by </{tag}>"
        self.now = self.now.parent

    def handle_data(self, data):
        self.now.children.append(data)


def parse(page):
    parser = _Parser()
    parser.feed(page)
    parser.close()
    assert parser.now is parser.root, f"<{parser.now.tag}> is never closed"
    return parser.root


NAMES = r"VGG16|ResNet50|EfficientNetB7|HAM10000|ham10000|isic2018|F1|−1…1"
"""Words of the prose that hold digits."""


def typed_words(element):
    """Return the text of an element that comes from no fact: without names, code, captions' numbers, and sources."""

    def words(node):
        if not isinstance(node, Element):
            return node
        skipped = node.tag in ("data", "code") or node.get("class") in ("count", "source", "reference")
        return "" if skipped else "".join(map(words, node.children))

    return re.sub(NAMES, "", words(element))
