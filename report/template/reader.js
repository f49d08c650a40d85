// What the reader can do where scripts run: colours, contents that follow, tables to sort and to copy, figures to open
// large. Every control is made here, so that without scripts there is none that does nothing.
// The template defines `words`, the words of the controls in the page's language.
"use strict";

const root = document.documentElement;
root.classList.add("scripted");

const say = (key, blanks = {}) => words[key].replace(/\{(\w+)\}/g, (_, name) => blanks[name]);

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

const button = (text, act, properties) => {
  const element = make("button", { type: "button", ...properties }, text);
  element.addEventListener("click", act);
  return element;
};

// Colours: those of the system, light or dark; remembered where the browser allows it. They are set before anything is shown.

const dark = document.getElementById("dark");
const bySystem = dark.media;

function remembered(choice) {
  try {
    if (choice) localStorage.setItem("skin-tl-colours", choice);
    return localStorage.getItem("skin-tl-colours");
  } catch {
    return choice;
  }
}

function colour(choice) {
  dark.media = { dark: "screen", light: "not all" }[choice] ?? bySystem;
}

colour(remembered());

function addColours() {
  const now = remembered() ?? "system";
  const choices = ["system", "light", "dark"].map((choice) =>
    button(say(choice), () => {
      colour(remembered(choice) ?? choice);
      for (const other of choices) other.ariaPressed = String(other.value === choice);
    }, { value: choice, ariaPressed: String(choice === now) }));
  const group = make("div", { className: "colours", role: "group", ariaLabel: say("colours") }, ...choices);
  document.querySelector(".skip").after(group);
}

// Contents: the last heading in the upper fifth of the window, or above it, is where the reader is.

function followReader() {
  const links = new Map();
  for (const link of document.querySelectorAll(".contents a")) {
    const name = link.hash.slice(1);
    links.set(name, [...(links.get(name) ?? []), link]);
  }
  const headings = [...links.keys()].map((name) => document.getElementById(name));
  const narrow = document.querySelector(".contents.narrow");
  const place = make("span", { className: "place" });
  narrow.querySelector("summary").append(place);
  const passed = new Set();
  let current = null;
  const observer = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) isIntersecting ? passed.add(target) : passed.delete(target);
    const heading = headings.filter((one) => passed.has(one)).at(-1) ?? null;
    if (heading === current) return;
    for (const link of links.get(current?.id) ?? []) link.removeAttribute("aria-current");
    for (const link of links.get(heading?.id) ?? []) {
      link.setAttribute("aria-current", "true");
      const box = link.getBoundingClientRect(), list = link.closest("nav"), frame = list.getBoundingClientRect();
      list.scrollTop += Math.min(0, box.top - frame.top - 60) + Math.max(0, box.bottom - frame.bottom + 60);
    }
    place.textContent = heading?.textContent ?? "";
    current = heading;
  }, { rootMargin: "9999999px 0px -80% 0px" });
  for (const heading of headings) observer.observe(heading);
  narrow.addEventListener("click", (event) => {
    if (event.target.closest("a")) narrow.open = false;
  });
}

// Tables wider than their box: its edge fades as long as columns are beyond it.

const sizes = new ResizeObserver((entries) => entries.forEach(({ target }) => fade(target)));

function fade(box) {
  box.classList.toggle("more", box.scrollLeft + box.clientWidth < box.scrollWidth - 1);
}

function watchTables() {
  for (const box of document.querySelectorAll(".scroll")) {
    box.addEventListener("scroll", () => fade(box), { passive: true });
    sizes.observe(box);
  }
}

// Folds: a link into one opens it.

function openFold() {
  const fold = document.getElementById(location.hash.slice(1))?.closest("main details");
  if (!fold || fold.open) return;
  fold.open = true;
  document.getElementById(location.hash.slice(1)).scrollIntoView();
}

// Large: what is shown moves into a dialog and returns when that is closed. The browser keeps the focus inside it, closes it by
// the Escape key and gives the focus back.

function openLarge(title, shown, note = "") {
  const home = make("div");
  home.style.height = `${shown.offsetHeight}px`;
  const close = button(say("close"), () => dialog.close());
  const dialog = make("dialog", { className: "large", ariaLabel: title }, make("div", { className: "bar" }, title, close));
  if (shown.isConnected) shown.replaceWith(home);
  dialog.append(shown, note);
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  dialog.addEventListener("close", () => {
    if (home.isConnected) home.replaceWith(shown);
    dialog.remove();
  });
  document.body.append(dialog);
  dialog.showModal();
}

function enlarge(figure) {
  const shown = figure.querySelector('.panels, [role="group"]'), caption = figure.querySelector("figcaption");
  const title = caption.querySelector(".count").textContent.replace(/\.$/, "");
  const open = () => {
    if (shown.parentElement === figure) openLarge(title, shown, make("p", { className: "note", innerHTML: caption.innerHTML }));
  };
  shown.addEventListener("click", open);
  const control = button(say("enlarge"), open, { ariaLabel: `${say("enlarge")}: ${title}` });
  caption.before(make("div", { className: "tools" }, control));
}

// Tables. A cell's number is that of its first <data>; the other ones are the ends of its interval and the like, by class.

const order = new Intl.Collator(root.lang, { numeric: true });
const textOf = (element) => element.textContent.replace(/\s+/g, " ").trim();

function valueOf(cell) {
  const text = cell.querySelector("data")?.value ?? textOf(cell);
  if (text === "" || text === "–") return null;
  const [thousands, decimal] = root.lang === "fr" ? [/\s/g, ","] : [/[,\s]/g, "."];
  const number = Number(text.replace(thousands, "").replace(decimal, ".").replace("−", "-").replace(/%$/, ""));
  return Number.isNaN(number) ? text : number;
}

function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return typeof a === typeof b ? order.compare(a, b) : typeof a === "number" ? -1 : 1;
}

function makeSortable(table) {
  const body = table.tBodies[0], first = [...body.rows], heads = [...table.tHead.rows[0].cells];
  if (first.length < 2) return;
  heads.forEach((head, column) => {
    const name = textOf(head);
    const control = button("", () => {
      const now = head.getAttribute("aria-sort"), next = now ? { ascending: "descending" }[now] : "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      const rows = first.map((row) => [valueOf(row.cells[column]), row]);
      const sign = next === "descending" ? -1 : 1;
      if (next) {
        rows.sort(([a], [b]) => (a === null) - (b === null) || (a === null ? 0 : sign * compare(a, b)));
        head.setAttribute("aria-sort", next);
      }
      body.append(...rows.map(([, row]) => row));
      announce(say(next ?? "unsorted", { name }));
    }, { className: "sort", title: say("sort") });
    control.append(...head.childNodes);
    head.append(control);
  });
}

function csvOf(table) {
  const rows = [...table.rows].map((row) => [...row.cells]);
  const columns = rows[0].map((head, column) => {
    const parts = new Set([""]);
    for (const row of rows.slice(1)) for (const data of row[column].querySelectorAll("data")) parts.add(data.className);
    return { name: textOf(head), parts: [...parts] };
  });
  const lines = [columns.flatMap(({ name, parts }) => parts.map((part) => (part ? `${name}, ${say(part)}` : name)))];
  for (const row of rows.slice(1)) {
    lines.push(columns.flatMap(({ parts }, column) => parts.map((part) => {
      const numbers = [...row[column].querySelectorAll("data")];
      const number = numbers.find((data) => data.className === part);
      if (number || part || numbers.length) return number?.value ?? "";
      return textOf(row[column]).replace(/^–$/, "");
    })));
  }
  const formula = /^([=@\t\r]|[+-](?!(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$))/i; // which spreadsheets execute
  const harmless = (text) => (formula.test(text) ? `'${text}` : text);
  const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  return lines.map((line) => line.map(harmless).map(quoted).join(",")).join("\r\n") + "\r\n";
}

async function copy(block, table) {
  const text = csvOf(table), title = textOf(block.querySelector(".count")).replace(/\.$/, "");
  try {
    await navigator.clipboard.writeText(text);
    announce(say("copied", { name: title, rows: table.tBodies[0].rows.length }));
  } catch {
    const field = make("textarea", { readOnly: true, value: text, rows: 12, ariaLabel: title });
    openLarge(title, field, make("p", { className: "note" }, say("not_copied")));
    field.select();
    announce(say("not_copied"));
  }
}

// What was done is said in a live region, which stands where everybody sees it.

const said = make("div", { className: "said", role: "status" });
let silence;

function announce(text) {
  clearTimeout(silence);
  said.textContent = text;
  silence = setTimeout(() => { said.textContent = ""; }, 6000);
}

document.addEventListener("DOMContentLoaded", () => {
  document.body.append(said);
  addColours();
  followReader();
  openFold();
  watchTables();
  addEventListener("hashchange", openFold);
  for (const figure of document.querySelectorAll("figure")) enlarge(figure);
  for (const block of document.querySelectorAll(".table:not(.checklists)")) {
    const table = block.querySelector("table");
    makeSortable(table);
    block.prepend(make("div", { className: "tools" }, button(say("copy"), () => copy(block, table))));
  }
});
